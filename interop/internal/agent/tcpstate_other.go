//go:build !linux

package agent

import (
	"errors"
	"net"
)

// peerGone is known on Linux alone.
func peerGone(*net.TCPConn) (bool, error) {
	return false, errors.New("a frozen agent needs Linux")
}
