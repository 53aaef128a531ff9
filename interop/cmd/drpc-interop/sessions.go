package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcmetadata"

	"github.com/drpcd/drpcd/interop/internal/script"
	"github.com/drpcd/drpcd/interop/internal/transport"
)

// patience bounds a session with the test script.
const patience = 2 * time.Minute

// scriptSession is a session with the test script, whose error says what was not as it should be.
type scriptSession struct {
	name string
	run  func(ctx context.Context, session *transport.Session) error
}

// runScriptClient has one of the named sessions with a server of the script, or lists their names.
func runScriptClient(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	name := flags.String("session", "", "name of the session; without it the names of those that are recorded are listed")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	sessions, err := scriptSessions()
	if err != nil {
		return nil, false, err
	}
	if *name == "" {
		names := make([]string, 0, len(sessions))
		for _, session := range sessions {
			names = append(names, session.name)
		}
		return names, true, nil
	}
	sessions = append(sessions, cases...)
	index := slices.IndexFunc(sessions, func(s scriptSession) bool { return s.name == *name })
	if index < 0 {
		return nil, false, fmt.Errorf("no session %q", *name)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	session, err := transport.Dial(ctx, *options)
	if err != nil {
		return nil, false, err
	}
	if err := sessions[index].run(ctx, session); err != nil {
		return nil, false, fmt.Errorf("%s: %w", *name, err)
	}
	// The ends of the last streams are on their way.
	time.Sleep(50 * time.Millisecond)
	return struct{}{}, true, session.Close()
}

func scriptSessions() ([]scriptSession, error) {
	methods, err := script.Methods()
	if err != nil {
		return nil, err
	}
	var sessions []scriptSession
	for _, method := range methods {
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(method.Path, "/coder."), ".v2", ""))
		name = strings.NewReplacer("/", "-", ".", "-").Replace(name)
		sessions = append(sessions, scriptSession{name, func(ctx context.Context, session *transport.Session) error {
			return callMethod(ctx, session, method)
		}})
	}
	return append(sessions, scripted...), nil
}

// callMethod makes a call of a real method, whatever its shape, with every field of the request set.
func callMethod(ctx context.Context, session *transport.Session, method script.Method) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var reply script.Raw
	if !method.ServerStreams && !method.ClientStreams {
		if err := session.Invoke(ctx, method.Path, script.Encoding, &script.Raw{Bytes: method.Request}, &reply); err != nil {
			return err
		}
		return same(reply.Bytes, method.Reply)
	}
	stream, err := session.NewStream(ctx, method.Path, script.Encoding)
	if err != nil {
		return err
	}
	if err := stream.MsgSend(&script.Raw{Bytes: method.Request}, script.Encoding); err != nil {
		return err
	}
	if !method.ClientStreams {
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	if err := stream.MsgRecv(&reply, script.Encoding); err != nil {
		return err
	}
	if method.ClientStreams {
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	if err := stream.MsgRecv(&script.Raw{}, script.Encoding); !errors.Is(err, io.EOF) {
		return fmt.Errorf("end of the stream: %w", err)
	}
	return same(reply.Bytes, method.Reply)
}

func same(got, want []byte) error {
	if !slices.Equal(got, want) {
		return fmt.Errorf("reply %x, not %x", got, want)
	}
	return nil
}

// unary is a call whose reply or error begins so.
func unary(path, request, want string) func(context.Context, *transport.Session) error {
	return func(ctx context.Context, session *transport.Session) error {
		return one(ctx, session, path, request, want)
	}
}

func one(ctx context.Context, session *transport.Session, path, request, want string) error {
	var reply script.Text
	got := ""
	if err := session.Invoke(ctx, path, script.Encoding, wrapperspb.String(request), &reply); err != nil {
		got = err.Error()
	} else {
		got = reply.GetValue()
	}
	if !strings.HasPrefix(got, want) {
		return fmt.Errorf("%s: %.100q, not %.100q", path, got, want)
	}
	return nil
}

// talk opens a stream, sends texts one after another, each after as many answers as it takes, and half-closes if it is to.
func talk(path string, halfClose bool, texts ...string) func(context.Context, *transport.Session) error {
	return func(ctx context.Context, session *transport.Session) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := session.NewStream(ctx, path, script.Encoding)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if err := stream.MsgSend(wrapperspb.String(text), script.Encoding); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			// Chats answer each message; others are asked at the end.
			if path == "/t/Chat" && !strings.Contains("close half-close leave", text) && !strings.HasPrefix(text, "fail") {
				if err := stream.MsgRecv(&script.Text{}, script.Encoding); err != nil {
					return err
				}
			}
		}
		if halfClose {
			if err := stream.CloseSend(); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		return drain(stream)
	}
}

// drain reads until the stream ends, in whatever way.
func drain(stream drpc.Stream) error {
	for range 100_000 {
		if stream.MsgRecv(&script.Text{}, script.Encoding) != nil {
			return nil
		}
	}
	return errors.New("a stream without end")
}

// abandon begins a call and cancels it, once it runs.
func abandon(path, request string, after int) func(context.Context, *transport.Session) error {
	return func(ctx context.Context, session *transport.Session) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := session.NewStream(ctx, path, script.Encoding)
		if err != nil {
			return err
		}
		if err := stream.MsgSend(wrapperspb.String(request), script.Encoding); err != nil {
			return err
		}
		for range after {
			if err := stream.MsgRecv(&script.Text{}, script.Encoding); err != nil {
				return err
			}
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
		// The end of the stream goes out before the next call.
		time.Sleep(50 * time.Millisecond)
		return one(context.WithoutCancel(ctx), session, "/t/Echo", "after", "after")
	}
}

// together makes calls at once.
func together(n int, call func(i int) func(context.Context, *transport.Session) error) func(context.Context, *transport.Session) error {
	return func(ctx context.Context, session *transport.Session) error {
		errs := make([]error, n)
		var wait sync.WaitGroup
		for i := range n {
			wait.Add(1)
			go func() {
				defer wait.Done()
				errs[i] = call(i)(ctx, session)
			}()
		}
		wait.Wait()
		return errors.Join(errs...)
	}
}

// large is a text of n bytes.
func large(n int) string { return strings.Repeat("x", n) }

var scripted = []scriptSession{
	{"unary-echo", unary("/t/Echo", "hello", "hello")},
	{"unary-empty", unary("/t/Echo", "", "")},
	{"unary-nothing", unary("/t/Nothing", "", "EOF")},
	{"unary-slow", unary("/t/Sleep", "300", "slept")},
	{"unary-large-request", unary("/t/Echo", large(300_000), large(300_000))},
	{"unary-large-reply", unary("/t/Repeat", "1000000", large(1_000_000))},
	{"unary-medium-request", unary("/t/Echo", large(5_000), large(5_000))},
	{"unary-frame-border", unary("/t/Repeat", "65532", large(65_532))},
	{"unary-many-in-turn", func(ctx context.Context, session *transport.Session) error {
		for i := range 50 {
			if err := one(ctx, session, "/t/Echo", fmt.Sprint(i), fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"error-without-code", unary("/t/Fail", "0 boom", "boom")},
	{"error-with-code", unary("/t/Fail", "42 coded", "coded")},
	{"error-empty", unary("/t/Fail", "7 ", "")},
	{"error-long", unary("/t/FailLong", "100000", strings.Repeat("e", 100_000))},
	{"error-unimplemented", unary("/t/Unimplemented", "", "Unimplemented")},
	{"error-unknown-rpc", unary("/no.Such/Rpc", "", `protocol error: unknown rpc: "/no.Such/Rpc"`)},
	{"error-panic", unary("/t/Panic", "", "internal error: panic serving dRPC request")},
	{"error-bad-request", func(ctx context.Context, session *transport.Session) error {
		err := session.Invoke(ctx, "/t/Echo", script.Encoding, &script.Raw{Bytes: []byte("\x0a\x7fshort")}, &script.Text{})
		if err == nil {
			return errors.New("no error")
		}
		return one(ctx, session, "/t/Echo", "after", "after")
	}},
	{"metadata", func(ctx context.Context, session *transport.Session) error {
		return one(drpcmetadata.Add(ctx, "key", "value"), session, "/t/Metadata", "", "key=value")
	}},
	{"metadata-empty-value", func(ctx context.Context, session *transport.Session) error {
		return one(drpcmetadata.Add(ctx, "key", ""), session, "/t/Metadata", "", "key=")
	}},
	{"metadata-on-a-stream", func(ctx context.Context, session *transport.Session) error {
		return talk("/t/Count", true, "2")(drpcmetadata.Add(ctx, "key", "value"), session)
	}},
	{"server-stream", talk("/t/Count", true, "5")},
	{"server-stream-empty", talk("/t/Count", true, "0")},
	{"server-stream-large", talk("/t/Count", true, "20 60000")},
	{"server-stream-error", talk("/t/CountFail", true, "3 9 enough")},
	{"server-stream-close", talk("/t/CountClose", true, "3")},
	{"server-stream-cancelled", abandon("/t/Silent", "", 0)},
	{"client-stream", talk("/t/Join", true, "a", "b", "c")},
	{"client-stream-empty", talk("/t/Join", true)},
	{"client-stream-large", talk("/t/Join", true, large(100_000), large(100_000), large(100_000), large(100_000))},
	{"bidi", talk("/t/Chat", true, "a", "b", "c")},
	{"bidi-server-closes", talk("/t/Chat", false, "a", "close")},
	{"bidi-server-half-closes", talk("/t/Chat", true, "a", "half-close")},
	{"bidi-server-fails", talk("/t/Chat", false, "a", "fail 3 no")},
	{"bidi-server-leaves", talk("/t/Chat", true, "a", "leave")},
	{"bidi-cancelled", abandon("/t/Chat", "a", 1)},
	{"unary-cancelled", func(ctx context.Context, session *transport.Session) error {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if err := one(short, session, "/t/Sleep", "100000", "context"); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
		return one(ctx, session, "/t/Echo", "after", "after")
	}},
	{"together-unary", together(32, func(i int) func(context.Context, *transport.Session) error {
		return unary("/t/Echo", fmt.Sprint(i), fmt.Sprint(i))
	})},
	{"together-errors", together(32, func(i int) func(context.Context, *transport.Session) error {
		return unary("/t/Fail", fmt.Sprintf("%d error %d", i, i), fmt.Sprintf("error %d", i))
	})},
	{"together-shapes", together(12, func(i int) func(context.Context, *transport.Session) error {
		switch i % 4 {
		case 0:
			return unary("/t/Sleep", "20", "slept")
		case 1:
			return talk("/t/Count", true, "10 1000")
		case 2:
			return talk("/t/Join", true, "a", "b")
		default:
			return talk("/t/Chat", true, "a", "b")
		}
	})},
}
