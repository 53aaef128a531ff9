package agent

import (
	"net"
	"syscall"
)

// tcpEstablished is the kernel's number of that state; after the peer's FIN or RST it is another one.
const tcpEstablished = 1

// peerGone is whether the peer has closed a TCP connection. It reads nothing from it.
func peerGone(conn *net.TCPConn) (bool, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var info int
	var failed error
	// The state is the first byte of what the kernel tells; asked for an int, it tells the first four.
	err = raw.Control(func(fd uintptr) {
		info, failed = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	})
	if err == nil {
		err = failed
	}
	return err == nil && info&0xff != tcpEstablished, err
}
