package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// hostileResult says how the server took bad input.
type hostileResult struct {
	Kind string `json:"kind"`
	// Ended is whether the server ended the session, with this WebSocket code and reason.
	Ended       bool   `json:"ended"`
	CloseCode   int    `json:"close_code"`
	CloseReason string `json:"close_reason"`
	// CallError is the error of the bad call, where the input was a call.
	CallError string `json:"call_error"`
	// NextCallError is the error of a good call on the same session after it.
	NextCallError string `json:"next_call_error"`
}

// hostileWait bounds how long the server may take to end a session.
const hostileWait = 10 * time.Second

func runHostile(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	kind := flags.String("kind", "", "text-frame, garbage, bad-version, fin-mid-frame or message-5mib")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, hostileWait)
	defer cancel()
	result := &hostileResult{Kind: *kind}
	switch *kind {
	case "text-frame":
		return result, true, sendRaw(ctx, *options, result, websocket.MessageText, []byte("hello"))
	case "garbage":
		return result, true, sendRaw(ctx, *options, result, websocket.MessageBinary, bytes.Repeat([]byte{0xff}, 64))
	case "bad-version":
		return result, true, sendRaw(ctx, *options, result, websocket.MessageBinary, yamuxHeader(1, 0, 1, 1, 0))
	case "fin-mid-frame":
		return result, true, finMidFrame(ctx, *options, result)
	case "message-5mib":
		return result, true, largeMessage(ctx, *options, result)
	}
	return nil, false, fmt.Errorf("unknown kind %q", *kind)
}

func yamuxHeader(version, kind byte, flags uint16, stream, length uint32) []byte {
	header := []byte{version, kind}
	header = binary.BigEndian.AppendUint16(header, flags)
	header = binary.BigEndian.AppendUint32(header, stream)
	return binary.BigEndian.AppendUint32(header, length)
}

// sendRaw sends one message and waits for the end.
func sendRaw(
	ctx context.Context, options transport.Options, result *hostileResult, kind websocket.MessageType, data []byte,
) error {
	conn, _, err := transport.DialWebSocket(ctx, options)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, kind, data); err != nil {
		return err
	}
	for {
		_, _, err := conn.Read(ctx)
		if err == nil {
			continue
		}
		result.Ended = ctx.Err() == nil
		var closed websocket.CloseError
		if errors.As(err, &closed) {
			result.CloseCode, result.CloseReason = int(closed.Code), closed.Reason
		}
		return nil
	}
}

// finMidFrame ends a stream in the middle of a DRPC frame; the session must live on.
func finMidFrame(ctx context.Context, options transport.Options, result *hostileResult) error {
	session, err := transport.Dial(ctx, options)
	if err != nil {
		return err
	}
	defer session.Close()
	stream, err := session.Mux.OpenStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte{0x03, 0x01, 0x01, 0x40, '/'}); err != nil {
		return err
	}
	if err := stream.Close(); err != nil {
		return err
	}
	return nextCall(ctx, session, result)
}

// largeMessage makes a call whose request is over the limit; only that call may fail.
func largeMessage(ctx context.Context, options transport.Options, result *hostileResult) error {
	session, err := transport.Dial(ctx, options)
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = agentpb.NewDRPCAgentClient(session).BatchCreateLogs(ctx, &agentpb.BatchCreateLogsRequest{
		LogSourceId: make([]byte, 16),
		Logs:        []*agentpb.Log{{Output: strings.Repeat("x", 5<<20)}},
	})
	if err != nil {
		result.CallError = err.Error()
	}
	return nextCall(ctx, session, result)
}

func nextCall(ctx context.Context, session *transport.Session, result *hostileResult) error {
	if err := methods["stats"](ctx, agentpb.NewDRPCAgentClient(session), 0); err != nil {
		result.NextCallError = err.Error()
	}
	result.Ended = session.Mux.IsClosed()
	return nil
}
