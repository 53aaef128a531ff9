package agent

import (
	"net"
	"sync"
)

// freezer stops a connection without closing it, as SIGSTOP does to a process: nothing is read or written any more, and
// what the libraries above do in their despair (they know nothing of the freeze) does not reach the socket.
type freezer struct {
	mu     sync.Mutex
	frozen bool
	closed bool
	// released is closed when the library has given the frozen connection up, which frees its blocked goroutines.
	released chan struct{}
	conn     net.Conn
}

func newFreezer() *freezer { return &freezer{released: make(chan struct{})} }

// wrap takes over the TCP connection of a session.
func (f *freezer) wrap(conn net.Conn) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn = conn
	return &frozenConn{Conn: conn, freezer: f}
}

// freeze says whether there was still an open connection to freeze.
func (f *freezer) freeze() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = !f.closed && f.conn != nil
	return f.frozen
}

func (f *freezer) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozen
}

// peerGone is whether the server has closed the connection.
func (f *freezer) peerGone() (bool, error) {
	if tcp, ok := f.conn.(*net.TCPConn); ok {
		return peerGone(tcp)
	}
	return false, nil
}

// end closes the TCP connection for good.
func (f *freezer) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release()
	if f.conn != nil {
		_ = f.conn.Close()
	}
}

func (f *freezer) release() {
	if !f.closed {
		f.closed = true
		close(f.released)
	}
}

// block waits in a frozen connection until it is given up; it says whether the connection was frozen.
func (f *freezer) block() bool {
	if !f.isFrozen() {
		return false
	}
	<-f.released
	return true
}

type frozenConn struct {
	net.Conn
	freezer *freezer
}

func (c *frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.freezer.block() {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *frozenConn) Write(p []byte) (int, error) {
	if c.freezer.block() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// Close leaves a frozen connection open.
func (c *frozenConn) Close() error {
	c.freezer.mu.Lock()
	defer c.freezer.mu.Unlock()
	c.freezer.release()
	if c.freezer.frozen {
		return nil
	}
	return c.Conn.Close()
}

// SetLinger makes a cut a reset.
func (c *frozenConn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(seconds)
	}
	return nil
}
