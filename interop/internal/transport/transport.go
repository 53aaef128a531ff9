// Package transport dials an agent's session the way a Go agent does: WebSocket, yamux over it, and one DRPC connection
// on a yamux stream of its own per call.
package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcwire"
)

// MaxMessage is the most that one DRPC message may hold, in bytes.
const MaxMessage = 4 << 20

// Path of the endpoint that agents dial.
const Path = "/api/v2/workspaceagents/me/rpc"

// Options say what to dial, and as whom.
type Options struct {
	// URL of the server. Only loopback addresses are dialed.
	URL string
	// Path of the endpoint; empty is that of agents.
	Path string
	// Token of the agent or client.
	Token string
	// Version is the API version; empty leaves the parameter out, as the oldest agents do.
	Version string
	// Role is the role parameter; empty leaves it out.
	Role string
	// ResumeToken is the resume_token parameter of clients; empty leaves it out.
	ResumeToken string
	// Cookie sends the token as older agents do, in a cookie instead of a header.
	Cookie bool
	// StreamOpenTimeout is yamux's; zero is its default of 75 s.
	StreamOpenTimeout time.Duration
	// OnConn, when set, is given the TCP connection before it is used.
	OnConn func(net.Conn) net.Conn
}

// DRPCOptions are those of a real agent.
func DRPCOptions() drpcmanager.Options {
	return drpcmanager.Options{Reader: drpcwire.ReaderOptions{MaximumBufferSize: MaxMessage}}
}

// Session is a dialed session. It is a [drpc.Conn] whose every call has a yamux stream of its own.
type Session struct {
	WebSocket *websocket.Conn
	Mux       *yamux.Session
	tcp       net.Conn
	pipe      *pipe
}

// StatusError is an HTTP answer other than the upgrade.
type StatusError struct {
	Status int
	Body   string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("unexpected status code %d: %s", e.Status, e.Body)
}

// CheckLoopback refuses every URL that does not lead to this machine.
func CheckLoopback(raw string) (*url.URL, error) {
	target, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(target.Hostname()); target.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("only loopback addresses are dialed, not %q", target.Host)
	}
	return target, nil
}

// DialWebSocket opens the WebSocket alone.
func DialWebSocket(ctx context.Context, options Options) (*websocket.Conn, net.Conn, error) {
	target, err := CheckLoopback(options.URL)
	if err != nil {
		return nil, nil, err
	}
	target = target.JoinPath(cmp.Or(options.Path, Path))
	query := target.Query()
	if options.Version != "" {
		query.Set("version", options.Version)
	}
	if options.Role != "" {
		query.Set("role", options.Role)
	}
	if options.ResumeToken != "" {
		query.Set("resume_token", options.ResumeToken)
	}
	target.RawQuery = query.Encode()

	header := http.Header{}
	if options.Cookie {
		header.Set("Cookie", "coder_session_token="+options.Token)
	} else if options.Token != "" {
		header.Set("Coder-Session-Token", options.Token)
	}
	var tcp net.Conn
	dialer := net.Dialer{Timeout: 10 * time.Second}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// A name or a redirect may lead elsewhere than the URL seems to.
			if peer, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !peer.IP.IsLoopback() {
				return nil, errors.Join(fmt.Errorf("%s is not a loopback address", conn.RemoteAddr()), conn.Close())
			}
			if options.OnConn != nil {
				conn = options.OnConn(conn)
			}
			tcp = conn
			return conn, nil
		},
	}}
	conn, response, err := websocket.Dial(ctx, target.String(), &websocket.DialOptions{
		HTTPClient:      client,
		HTTPHeader:      header,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if response != nil {
			body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
			return nil, nil, &StatusError{Status: response.StatusCode, Body: string(body)}
		}
		return nil, nil, err
	}
	conn.SetReadLimit(MaxMessage)
	return conn, tcp, nil
}

// Dial opens a session.
func Dial(ctx context.Context, options Options) (*Session, error) {
	conn, tcp, err := DialWebSocket(ctx, options)
	if err != nil {
		return nil, err
	}
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	if options.StreamOpenTimeout > 0 {
		config.StreamOpenTimeout = options.StreamOpenTimeout
	}
	pipe := &pipe{Conn: websocket.NetConn(context.Background(), conn, websocket.MessageBinary)}
	mux, err := yamux.Client(pipe, config)
	if err != nil {
		_ = conn.CloseNow()
		return nil, err
	}
	return &Session{WebSocket: conn, Mux: mux, tcp: tcp, pipe: pipe}, nil
}

// pipe remembers what ended the reading of a session, which yamux keeps to itself.
type pipe struct {
	net.Conn
	mu  sync.Mutex
	end error
}

func (p *pipe) Read(buffer []byte) (int, error) {
	n, err := p.Conn.Read(buffer)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.end == nil {
			p.end = err
		}
	}
	return n, err
}

// End is what ended the reading of the session, nil while it lives. A server's close with code 1000 or 1001 is
// [io.EOF]; with any other code it is a [websocket.CloseError] that has code and reason.
func (s *Session) End() error {
	s.pipe.mu.Lock()
	defer s.pipe.mu.Unlock()
	return s.pipe.end
}

var _ drpc.Conn = (*Session)(nil)

// Close ends the session with the WebSocket's goodbye.
func (s *Session) Close() error { return s.Mux.Close() }

// Cut ends the session without any goodbye: the TCP connection is reset, or with fin closed as the kernel closes that of
// a killed process.
func (s *Session) Cut(fin bool) {
	if tcp, ok := s.tcp.(interface{ SetLinger(int) error }); ok && !fin {
		_ = tcp.SetLinger(0)
	}
	_ = s.tcp.Close()
	_ = s.Mux.Close()
}

// Closed is closed when the session has ended.
func (s *Session) Closed() <-chan struct{} { return s.Mux.CloseChan() }

// Invoke makes a unary call.
func (s *Session) Invoke(ctx context.Context, rpc string, enc drpc.Encoding, in, out drpc.Message) error {
	conn, err := s.open()
	if err != nil {
		return err
	}
	err = conn.Invoke(ctx, rpc, enc, in, out)
	// What the call was told is told as it is, with its code.
	if closed := conn.Close(); err == nil {
		err = closed
	}
	return err
}

// NewStream begins a streaming call; its yamux stream is closed when the call's context ends.
func (s *Session) NewStream(ctx context.Context, rpc string, enc drpc.Encoding) (drpc.Stream, error) {
	conn, err := s.open()
	if err != nil {
		return nil, err
	}
	stream, err := conn.NewStream(ctx, rpc, enc)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		<-stream.Context().Done()
		_ = conn.Close()
	}()
	return stream, nil
}

func (s *Session) open() (*drpcconn.Conn, error) {
	stream, err := s.Mux.Open()
	if err != nil {
		return nil, err
	}
	return drpcconn.NewWithOptions(stream, drpcconn.Options{Manager: DRPCOptions()}), nil
}
