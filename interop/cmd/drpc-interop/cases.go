package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcerr"

	"github.com/drpcd/drpcd/interop/internal/script"
	"github.com/drpcd/drpcd/interop/internal/transport"
)

// cases are sessions in which the conformance suite looks at what a Go client is told. They are not recorded.
var cases = []scriptSession{
	{"errors-at-once", together(10_000, func(i int) func(context.Context, *transport.Session) error {
		return fails(fmt.Sprintf("%d error of %d", i+1, i), uint64(i+1), fmt.Sprintf("error of %d", i))
	})},
	{"shutdown", shutdown},
	{"cancelled-streams", cancelledStreams},
	{"error-while-writing", func(ctx context.Context, session *transport.Session) error {
		for range 200 {
			if err := errorWhileWriting(ctx, session); err != nil {
				return err
			}
		}
		return nil
	}},
}

// fails is a call that fails so.
func fails(request string, code uint64, text string) func(context.Context, *transport.Session) error {
	return func(ctx context.Context, session *transport.Session) error {
		err := session.Invoke(ctx, "/t/Fail", script.Encoding, wrapperspb.String(request), &script.Text{})
		return sameError(err, code, text)
	}
}

func sameError(err error, code uint64, text string) error {
	if err == nil || err.Error() != text || drpcerr.Code(err) != code {
		return fmt.Errorf("error %d %w, not %d %s", drpcerr.Code(err), err, code, text)
	}
	return nil
}

// begin begins a call with one message.
func begin(ctx context.Context, session *transport.Session, path, text string) (drpc.Stream, error) {
	stream, err := session.NewStream(ctx, path, script.Encoding)
	if err != nil {
		return nil, err
	}
	return stream, stream.MsgSend(wrapperspb.String(text), script.Encoding)
}

// shutdown has the server end the session, and looks what the calls are told that run then.
func shutdown(ctx context.Context, session *transport.Session) error {
	var chats [2]drpc.Stream
	for i := range chats {
		chat, err := begin(ctx, session, "/t/Chat", "a")
		if err != nil {
			return err
		}
		if err := chat.MsgRecv(&script.Text{}, script.Encoding); err != nil {
			return err
		}
		chats[i] = chat
	}
	// Its own end may come as that of the session.
	if session.Invoke(ctx, "/t/Shutdown", script.Encoding, wrapperspb.String(""), &script.Text{}) == nil {
		return errors.New("an answer")
	}
	for _, chat := range chats {
		err := chat.MsgRecv(&script.Text{}, script.Encoding)
		if err := sameError(err, 0, context.Canceled.Error()); err != nil {
			return err
		}
	}
	return nil
}

// cancelledStreams begins a thousand calls, cancels them once all run, and waits until neither side has any left.
func cancelledStreams(ctx context.Context, session *transport.Session) error {
	const count = 1_000
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	for range count {
		stream, err := begin(running, session, "/t/Silent", "")
		if err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	if err := noted(ctx, session, "Silent began", count); err != nil {
		return err
	}
	if err := open(ctx, session, count); err != nil {
		return err
	}
	cancel()
	if err := noted(ctx, session, "Silent cancelled", count); err != nil {
		return err
	}
	return open(ctx, session, 0)
}

// open waits until the session has so many streams: those of calls that have ended are so on both sides.
func open(ctx context.Context, session *transport.Session, count int) error {
	return eventually(ctx, func() (string, error) {
		if streams := session.Mux.NumStreams(); streams != count {
			return fmt.Sprintf("%d streams instead of %d", streams, count), nil
		}
		return "", nil
	})
}

// noted waits until the session's handlers have noted something so often, and nothing else.
func noted(ctx context.Context, session *transport.Session, note string, count int) error {
	found := 0
	return eventually(ctx, func() (string, error) {
		var notes script.Text
		err := session.Invoke(ctx, "/t/Notes", script.Encoding, wrapperspb.String(""), &notes)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(notes.GetValue()) {
			if line = strings.TrimSpace(line); line != note {
				return "", fmt.Errorf("noted %q", line)
			}
			found++
		}
		if found > count {
			return "", fmt.Errorf("%q is noted %d times", note, found)
		}
		if found < count {
			return fmt.Sprintf("%q is noted %d times", note, found), nil
		}
		return "", nil
	})
}

// eventually waits until check, which says what is missing, finds nothing, or for as long as the context lasts.
func eventually(ctx context.Context, check func() (string, error)) error {
	for {
		missing, err := check()
		if err != nil || missing == "" {
			return err
		}
		if !pause(ctx, 10*time.Millisecond) {
			return errors.New(missing)
		}
	}
}

// errorWhileWriting writes on after a message that the server answers with an error, until the writes tell the end.
func errorWhileWriting(ctx context.Context, session *transport.Session) error {
	stream, err := begin(ctx, session, "/t/Chat", "fail 9 enough")
	if err != nil {
		return err
	}
	for err == nil {
		err = stream.MsgSend(wrapperspb.String(large(100_000)), script.Encoding)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("send: %w", err)
	}
	return sameError(stream.MsgRecv(&script.Text{}, script.Encoding), 9, "enough")
}
