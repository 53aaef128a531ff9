package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"storj.io/drpc/drpcwire"

	"github.com/drpcd/drpcd/interop/internal/transport"
)

// The first byte of a WebSocket frame: its final bit and its opcode.
const (
	opBinary = 0x82
	opPing   = 0x89
)

// Types and flags of yamux frames.
const (
	yamuxData, yamuxWindow, yamuxPing = 0, 1, 2
	yamuxSYN, yamuxRST, yamuxFIN      = 1, 8, 4
)

const (
	// floodBatch is how many frames are sent at once where the frame is the harm.
	floodBatch = 256
	// floodPause lies between the connections of one flood, so that it does not take its own machine down.
	floodPause = 10 * time.Millisecond
	// slowConnections is how many handshakes are kept waiting at a time: more than the server has room for.
	slowConnections = 5_000
	// slowPause lies between the bytes of a slow handshake, and before the next one.
	slowPause = 500 * time.Millisecond
	// halfOpenSessions is how many sessions fall silent at a time: as many as an agent may have.
	halfOpenSessions = 64
	// handshakes is how many dial with a wrong token at a time.
	handshakes = 8
)

// floodResult says what a flood came to.
type floodResult struct {
	Kind string `json:"kind"`
	// Connections is how many times the server was dialed, Refused how many of them it did not let in, Ended how many it
	// closed.
	Connections int64 `json:"connections"`
	Refused     int64 `json:"refused"`
	Ended       int64 `json:"ended"`
	Bytes       int64 `json:"bytes"`
}

// flood is one who means harm for as long as its context lasts.
type flood struct {
	options transport.Options
	// sessions is how many sessions do the same at a time, where the harm is within one.
	sessions                          int
	connections, refused, ended, sent atomic.Int64
}

// floods are the kinds of harm.
var floods = map[string]func(*flood, context.Context){
	"streams": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			return batch(n, func(id uint32) []byte { return yamuxFrame(yamuxWindow, yamuxSYN, id, 0, nil) })
		})
	},
	"syn-rst": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			return batch(n, func(id uint32) []byte {
				return append(yamuxFrame(yamuxWindow, yamuxSYN, id, 0, nil), yamuxFrame(yamuxWindow, yamuxRST, id, 0, nil)...)
			})
		})
	},
	// Calls one after another on streams whose windows are never opened again.
	"zero-window": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			var calls []byte
			for number := range uint64(512) {
				calls = append(calls, drpcCall(number+1, bannersPath, nil)...)
			}
			return binaryMessage(yamuxFrame(yamuxData, yamuxSYN, streamID(n), uint32(len(calls)), calls))
		})
	},
	// The same with a stream for each call, from one who does not read.
	"never-reads": func(f *flood, ctx context.Context) {
		f.stream(ctx, false, func(n int) []byte {
			call := drpcCall(1, bannersPath, nil)
			return binaryMessage(yamuxFrame(yamuxData, yamuxSYN, streamID(n), uint32(len(call)), call))
		})
	},
	"pings": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			return batch(n, func(id uint32) []byte { return yamuxFrame(yamuxPing, yamuxSYN, 0, id, nil) })
		})
	},
	"websocket-pings": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			var pings []byte
			for range floodBatch {
				pings = append(pings, wsFrame(opPing, make([]byte, 125))...)
			}
			return pings
		})
	},
	// Calls that are right, with a message for each byte.
	"one-byte": func(f *flood, ctx context.Context) {
		f.stream(ctx, true, func(n int) []byte {
			call := drpcCall(1, bannersPath, nil)
			frames := yamuxFrame(yamuxData, yamuxSYN, streamID(n), uint32(len(call)), call)
			frames = append(frames, yamuxFrame(yamuxWindow, yamuxFIN, streamID(n), 0, nil)...)
			var messages []byte
			for _, one := range frames {
				messages = append(messages, binaryMessage([]byte{one})...)
			}
			return messages
		})
	},
	"oversize":   (*flood).oversize,
	"slowloris":  func(f *flood, ctx context.Context) { many(slowConnections, func(int) { f.slowHandshake(ctx) }) },
	"half-open":  func(f *flood, ctx context.Context) { many(halfOpenSessions, func(int) { f.halfOpen(ctx) }) },
	"handshakes": func(f *flood, ctx context.Context) { many(handshakes, func(int) { f.wrongToken(ctx) }) },
}

func runFlood(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	kind := flags.String("kind", "", "streams, syn-rst, zero-window, never-reads, pings, websocket-pings, one-byte, oversize, "+
		"slowloris, half-open or handshakes")
	duration := flags.Duration("duration", 5*time.Second, "how long")
	sessions := flags.Int("sessions", 1, "how many sessions do it at a time, where the harm is within one")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	run, ok := floods[*kind]
	if !ok {
		return nil, false, fmt.Errorf("unknown kind %q", *kind)
	}
	if _, err := transport.CheckLoopback(options.URL); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	f := &flood{options: *options, sessions: *sessions}
	run(f, ctx)
	return &floodResult{*kind, f.connections.Load(), f.refused.Load(), f.ended.Load(), f.sent.Load()}, true, nil
}

// many runs so many at a time.
func many(count int, run func(number int)) {
	var wait sync.WaitGroup
	for number := range count {
		wait.Add(1)
		go func() {
			defer wait.Done()
			run(number)
		}()
	}
	wait.Wait()
}

// again does something over and over, with a pause after each.
func again(ctx context.Context, run func()) {
	for ctx.Err() == nil {
		run()
		pause(ctx, floodPause)
	}
}

// connect opens a TCP connection that ends with the context at the latest.
func (f *flood) connect(ctx context.Context) (net.Conn, error) {
	target, err := url.Parse(f.options.URL)
	if err != nil {
		return nil, err
	}
	f.connections.Add(1)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return conn, nil
}

// request is that of a handshake; more are further header lines.
func (f *flood) request(token, more string) []byte {
	return []byte("GET " + transport.Path + "?version=2.8 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" +
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Coder-Session-Token: " + token + "\r\n" + more + "\r\n")
}

// session opens a WebSocket, whose frames are then written by hand.
func (f *flood) session(ctx context.Context) (net.Conn, error) {
	conn, err := f.connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(f.request(f.options.Token, "")); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		f.refused.Add(1)
		return nil, errors.Join(errors.New(response.Status), conn.Close())
	}
	return conn, nil
}

// stream sends one thing after another over each of its sessions, and over the next one when the server has closed it.
func (f *flood) stream(ctx context.Context, reads bool, next func(number int) []byte) {
	many(f.sessions, func(int) { f.streamOnce(ctx, reads, next) })
}

func (f *flood) streamOnce(ctx context.Context, reads bool, next func(number int) []byte) {
	again(ctx, func() {
		conn, err := f.session(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		if reads {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		}
		for number := 0; ctx.Err() == nil && number < math.MaxInt32/floodBatch/2; number++ {
			written, err := conn.Write(next(number))
			f.sent.Add(int64(written))
			if err != nil {
				if ctx.Err() == nil {
					f.ended.Add(1)
				}
				return
			}
		}
	})
}

// oversize sends what is too large, each on a session of its own, and waits for what comes of it.
func (f *flood) oversize(ctx context.Context) {
	open := func(method string) []byte {
		return drpcwire.AppendFrame(nil, drpcwire.Frame{
			ID: drpcwire.ID{Stream: 1, Message: 1}, Kind: drpcwire.KindInvoke, Done: true, Data: []byte(method),
		})
	}
	data := func(id uint32, flags uint16, payload []byte) []byte {
		return binaryMessage(yamuxFrame(yamuxData, flags, id, uint32(len(payload)), payload))
	}
	message := func(done bool, data []byte) []byte {
		return drpcwire.AppendFrame(nil, drpcwire.Frame{
			ID: drpcwire.ID{Stream: 1, Message: 2}, Kind: drpcwire.KindMessage, Done: done, Data: data,
		})
	}
	var parts, logs []byte
	parts = data(1, yamuxSYN, open(bannersPath))
	for range 8 {
		parts = append(parts, data(1, 0, message(false, make([]byte, 30<<10)))...)
	}
	logs = data(1, yamuxSYN, open("/coder.agent.v2.Agent/BatchCreateLogs"))
	for part := range 8 {
		logs = append(logs, data(1, 0, message(part == 7, []byte(strings.Repeat("\x12\x00", 15<<10))))...)
	}
	sizes := [][]byte{
		// Frames of WebSocket: a control frame, and one of 2^63-1 bytes.
		wsFrame(opPing, make([]byte, 126)),
		{opBinary, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		// A yamux frame beyond its window, and one of 4 GiB.
		binaryMessage(yamuxFrame(yamuxData, yamuxSYN, 1, 256<<10+1, nil)),
		binaryMessage(yamuxFrame(yamuxData, yamuxSYN, 1, math.MaxUint32, nil)),
		// A DRPC frame of more than a message may have, a path as long as a window, and a message that does not end.
		data(1, yamuxSYN, append(open(bannersPath), 0x05, 1, 2, 0x81, 0x80, 0x80, 2)),
		data(1, yamuxSYN, open("/"+strings.Repeat("x", 200<<10))),
		parts,
		// A message of many elements.
		logs,
	}
	for number := 0; ctx.Err() == nil; number++ {
		if number%(len(sizes)+1) == len(sizes) {
			// The head of a handshake.
			if conn, err := f.connect(ctx); err == nil {
				written, _ := conn.Write(f.request(f.options.Token, "X-Filler: "+strings.Repeat("a", 64<<10)+"\r\n"))
				f.sent.Add(int64(written))
				_ = conn.Close()
			}
			continue
		}
		conn, err := f.session(ctx)
		if err != nil {
			pause(ctx, floodPause)
			continue
		}
		written, _ := conn.Write(sizes[number%(len(sizes)+1)])
		f.sent.Add(int64(written))
		// What ends a call alone is not waited for long.
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := io.Copy(io.Discard, conn); err == nil {
			f.ended.Add(1)
		}
		_ = conn.Close()
	}
}

// slowHandshake sends a handshake a byte at a time, until it is cut, over and over.
func (f *flood) slowHandshake(ctx context.Context) {
	again(ctx, func() {
		defer pause(ctx, slowPause)
		conn, err := f.connect(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		for _, one := range f.request(f.options.Token, "") {
			if _, err := conn.Write([]byte{one}); err != nil {
				f.ended.Add(1)
				return
			}
			f.sent.Add(1)
			if !pause(ctx, slowPause) {
				return
			}
		}
	})
}

// halfOpen begins a frame and falls silent, until the server gives up, over and over.
func (f *flood) halfOpen(ctx context.Context) {
	again(ctx, func() {
		conn, err := f.session(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		written, _ := conn.Write(binaryMessage([]byte{0, 0, 0}))
		f.sent.Add(int64(written))
		if _, err := io.Copy(io.Discard, conn); err == nil {
			f.ended.Add(1)
		}
	})
}

// wrongToken dials with a token that is none, over and over, without a pause.
func (f *flood) wrongToken(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := f.connect(ctx)
		if err != nil {
			pause(ctx, floodPause)
			continue
		}
		written, _ := conn.Write(f.request("00000000-0000-4000-8000-0000000000ff", ""))
		f.sent.Add(int64(written))
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil &&
			response.StatusCode == http.StatusUnauthorized {
			f.refused.Add(1)
		}
		_ = conn.Close()
	}
}

const bannersPath = "/coder.agent.v2.Agent/GetAnnouncementBanners"

// batch is one message of many frames, each about a stream that was not there before.
func batch(number int, frame func(id uint32) []byte) []byte {
	var frames []byte
	for at := range floodBatch {
		frames = append(frames, frame(streamID(number*floodBatch+at))...)
	}
	return binaryMessage(frames)
}

// streamID is that of the stream with a number, the first being 0.
func streamID(number int) uint32 { return uint32(number)*2 + 1 }

func binaryMessage(payload []byte) []byte { return wsFrame(opBinary, payload) }

// wsFrame is a WebSocket frame with a mask of zeros.
func wsFrame(first byte, payload []byte) []byte {
	frame := []byte{first}
	switch length := len(payload); {
	case length <= 125:
		frame = append(frame, 0x80|byte(length))
	case length <= math.MaxUint16:
		frame = append(frame, 0xfe, byte(length>>8), byte(length))
	default:
		frame = append(frame, 0xff, 0, 0, 0, 0, byte(length>>24), byte(length>>16), byte(length>>8), byte(length))
	}
	return append(append(frame, 0, 0, 0, 0), payload...)
}

// yamuxFrame is a yamux frame whose length is as it is told, whatever the payload is.
func yamuxFrame(kind byte, flags uint16, stream, length uint32, payload []byte) []byte {
	return append(yamuxHeader(0, kind, flags, stream, length), payload...)
}

// drpcCall is the packets of a unary call.
func drpcCall(stream uint64, path string, request []byte) []byte {
	var packets []byte
	for number, packet := range []struct {
		kind drpcwire.Kind
		data []byte
	}{{drpcwire.KindInvoke, []byte(path)}, {drpcwire.KindMessage, request}, {drpcwire.KindCloseSend, nil}} {
		packets = drpcwire.AppendFrame(packets, drpcwire.Frame{
			ID: drpcwire.ID{Stream: stream, Message: uint64(number) + 1}, Kind: packet.kind, Done: true, Data: packet.data,
		})
	}
	return packets
}
