package agent

import (
	"net"
	"sync"
)

// freezer stops a connection without closing it, as SIGSTOP does to a process.
type freezer struct {
	mu     sync.Mutex
	frozen bool
	closed chan struct{}
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = true
	if f.closed == nil {
		f.closed = make(chan struct{})
	}
}

// wait returns at once, or when the frozen connection is closed.
func (f *freezer) wait() {
	f.mu.Lock()
	frozen, closed := f.frozen, f.closed
	f.mu.Unlock()
	if frozen {
		<-closed
	}
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen && f.closed != nil {
		close(f.closed)
	}
	f.frozen = false
}

type frozenConn struct {
	net.Conn
	freezer *freezer
}

func (c *frozenConn) Read(p []byte) (int, error) {
	c.freezer.wait()
	n, err := c.Conn.Read(p)
	c.freezer.wait()
	return n, err
}

func (c *frozenConn) Write(p []byte) (int, error) {
	c.freezer.wait()
	return c.Conn.Write(p)
}

func (c *frozenConn) Close() error {
	c.freezer.thaw()
	return c.Conn.Close()
}

// SetLinger makes a cut a reset.
func (c *frozenConn) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(seconds)
	}
	return nil
}
