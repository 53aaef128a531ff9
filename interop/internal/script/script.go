// Package script is the test service that conformance, captures and differential runs call. It exists twice, here for the
// Go libraries and in tests/support/script.rs for drpcd, and answers alike in both: what a request says decides what
// happens.
package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcerr"
	"storj.io/drpc/drpcmetadata"
	"storj.io/drpc/drpcmux"
)

// Text is every message of the scripted methods.
type Text = wrapperspb.StringValue

// maxNotes bounds what a session remembers.
const maxNotes = 10_000

// Service is what the methods of one session share.
type Service struct {
	// Shutdown ends the session from this side.
	Shutdown func()

	mu    sync.Mutex
	notes []string
}

// Note remembers something for /t/Notes.
func (s *Service) Note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notes) < maxNotes {
		s.notes = append(s.notes, fmt.Sprintf(format, args...))
	}
}

func (s *Service) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	notes := strings.Join(s.notes, "\n")
	s.notes = nil
	return notes
}

// named are services by the names that their sessions were given.
var named sync.Map

// Register adds the methods.
func (s *Service) Register(mux *drpcmux.Mux) error {
	if err := mux.Register(s, methods); err != nil {
		return err
	}
	return registerAnswers(mux, s)
}

type method struct {
	path     string
	receiver drpc.Receiver
	// shape is a function whose type tells the mux what kind of method it is.
	shape any
}

type description []method

func (d description) NumMethods() int { return len(d) }

func (d description) Method(n int) (string, drpc.Encoding, drpc.Receiver, any, bool) {
	if n < 0 || n >= len(d) {
		return "", nil, nil, nil, false
	}
	return d[n].path, encoding{}, d[n].receiver, d[n].shape, true
}

func unary(path string, handle func(s *Service, ctx context.Context, request string) (*Text, error)) method {
	return method{path, func(srv any, ctx context.Context, in, _ any) (drpc.Message, error) {
		reply, err := handle(srv.(*Service), ctx, in.(*Text).GetValue())
		if reply == nil {
			return nil, err
		}
		return reply, err
	}, func(*Service, context.Context, *Text) (*Text, error) { return nil, nil }}
}

func serverStream(path string, handle func(s *Service, request string, stream drpc.Stream) error) method {
	return method{path, func(srv any, _ context.Context, in, stream any) (drpc.Message, error) {
		return nil, handle(srv.(*Service), in.(*Text).GetValue(), stream.(drpc.Stream))
	}, func(*Service, *Text, drpc.Stream) error { return nil }}
}

func stream(path string, handle func(s *Service, stream drpc.Stream) error) method {
	return method{path, func(srv any, _ context.Context, in, _ any) (drpc.Message, error) {
		return nil, handle(srv.(*Service), in.(drpc.Stream))
	}, func(*Service, drpc.Stream) error { return nil }}
}

var methods = description{
	// The same text.
	unary("/t/Echo", func(_ *Service, _ context.Context, request string) (*Text, error) {
		return wrapperspb.String(request), nil
	}),
	// The error "CODE TEXT"; code 0 is none.
	unary("/t/Fail", func(_ *Service, _ context.Context, request string) (*Text, error) {
		return nil, failure(request)
	}),
	// An error of as many bytes.
	unary("/t/FailLong", func(_ *Service, _ context.Context, request string) (*Text, error) {
		return nil, errors.New(strings.Repeat("e", number(request)))
	}),
	unary("/t/Panic", func(*Service, context.Context, string) (*Text, error) { panic("as asked") }),
	unary("/t/Unimplemented", func(*Service, context.Context, string) (*Text, error) {
		return nil, drpcerr.WithCode(errors.New("Unimplemented"), drpcerr.Unimplemented)
	}),
	// After as many milliseconds, "slept".
	unary("/t/Sleep", func(s *Service, ctx context.Context, request string) (*Text, error) {
		s.Note("Sleep began")
		if !sleep(ctx, time.Duration(number(request))*time.Millisecond) {
			s.Note("Sleep cancelled")
			return nil, ctx.Err()
		}
		return wrapperspb.String("slept"), nil
	}),
	// As many bytes of "x".
	unary("/t/Repeat", func(_ *Service, _ context.Context, request string) (*Text, error) {
		return wrapperspb.String(strings.Repeat("x", number(request))), nil
	}),
	// No message at all.
	unary("/t/Nothing", func(*Service, context.Context, string) (*Text, error) { return nil, nil }),
	// What came as metadata, sorted.
	unary("/t/Metadata", func(_ *Service, ctx context.Context, _ string) (*Text, error) {
		metadata, _ := drpcmetadata.Get(ctx)
		return wrapperspb.String(sorted(metadata)), nil
	}),
	// What the session's handlers went through since the last time.
	unary("/t/Notes", func(s *Service, _ context.Context, _ string) (*Text, error) {
		return wrapperspb.String(s.take()), nil
	}),
	// The session's notes can be asked for by this name.
	unary("/t/Name", func(s *Service, _ context.Context, request string) (*Text, error) {
		named.Store(request, s)
		return wrapperspb.String(""), nil
	}),
	unary("/t/NotesOf", func(_ *Service, _ context.Context, request string) (*Text, error) {
		if found, ok := named.Load(request); ok {
			return wrapperspb.String(found.(*Service).take()), nil
		}
		return wrapperspb.String(""), nil
	}),
	// The server goes away.
	unary("/t/Shutdown", func(s *Service, ctx context.Context, _ string) (*Text, error) {
		s.Shutdown()
		<-ctx.Done()
		return nil, ctx.Err()
	}),
	// "N SIZE": N messages, their numbers with leading zeros to that size.
	serverStream("/t/Count", func(s *Service, request string, stream drpc.Stream) error {
		defer s.Note("Count ended")
		return count(stream, request)
	}),
	// "N CODE TEXT": N messages, then the error.
	serverStream("/t/CountFail", func(_ *Service, request string, stream drpc.Stream) error {
		n, rest, _ := strings.Cut(request, " ")
		if err := count(stream, n); err != nil {
			return err
		}
		return failure(rest)
	}),
	// "N": N messages, then Close.
	serverStream("/t/CountClose", func(_ *Service, request string, stream drpc.Stream) error {
		if err := count(stream, request); err != nil {
			return err
		}
		return stream.Close()
	}),
	serverStream("/t/Silent", func(s *Service, _ string, stream drpc.Stream) error {
		s.Note("Silent began")
		<-stream.Context().Done()
		s.Note("Silent cancelled")
		return nil
	}),
	// All texts as one.
	stream("/t/Join", func(s *Service, stream drpc.Stream) error { return join(s, stream, 0) }),
	// The same, 200 ms later.
	stream("/t/JoinLate", func(s *Service, stream drpc.Stream) error { return join(s, stream, 200*time.Millisecond) }),
	stream("/t/Chat", chat),
	// Says goodbye at once.
	stream("/t/Leave", func(*Service, drpc.Stream) error { return nil }),
}

func join(s *Service, stream drpc.Stream, late time.Duration) error {
	sleep(stream.Context(), late)
	var all strings.Builder
	for {
		var request Text
		if err := stream.MsgRecv(&request, encoding{}); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			s.Note("Join recv: %d %v", drpcerr.Code(err), err)
			return err
		}
		all.WriteString(request.GetValue())
	}
	if err := stream.MsgSend(wrapperspb.String(all.String()), encoding{}); err != nil {
		return err
	}
	return stream.CloseSend()
}

// chat does what each message says; what is no command is sent back.
func chat(s *Service, stream drpc.Stream) error {
	for {
		var request Text
		if err := stream.MsgRecv(&request, encoding{}); errors.Is(err, io.EOF) {
			s.Note("Chat eof")
			return nil
		} else if err != nil {
			s.Note("Chat recv: %d %v", drpcerr.Code(err), err)
			return err
		}
		command, rest, _ := strings.Cut(request.GetValue(), " ")
		var err error
		switch command {
		case "close":
			err = stream.Close()
		case "half-close":
			err = stream.CloseSend()
		case "fail":
			return failure(rest)
		case "leave":
			return nil
		case "sleep":
			s.Note("Chat sleeps")
			<-stream.Context().Done()
			s.Note("Chat cancelled")
			return nil
		case "count":
			err = count(stream, rest)
		default:
			s.Note("Chat got %s", request.GetValue())
			if err = stream.MsgSend(&request, encoding{}); err == nil {
				s.Note("Chat sent %s", request.GetValue())
			}
		}
		if err != nil {
			s.Note("Chat send: %v", err)
			return err
		}
	}
}

func count(stream drpc.Stream, request string) error {
	n, size, _ := strings.Cut(request, " ")
	for i := range number(n) {
		text := fmt.Sprintf("%0*d", number(size), i)
		if err := stream.MsgSend(wrapperspb.String(text), encoding{}); err != nil {
			return err
		}
	}
	return nil
}

func failure(request string) error {
	code, text, _ := strings.Cut(request, " ")
	return drpcerr.WithCode(errors.New(text), uint64(number(code)))
}

// number is 0 when there is none.
func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// sleep is true when it was not cancelled.
func sleep(ctx context.Context, duration time.Duration) bool {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func sorted(pairs map[string]string) string {
	list := make([]string, 0, len(pairs))
	for key, value := range pairs {
		list = append(list, key+"="+value)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
