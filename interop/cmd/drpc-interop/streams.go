package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// streamsResult says what became of idle streams.
type streamsResult struct {
	Opened     int          `json:"opened"`
	Reset      int          `json:"reset"`
	SessionEnd bool         `json:"session_ended"`
	Burst      *callsResult `json:"burst"`
	After      *callsResult `json:"after"`
}

// maxIdle bounds the streams of one run.
const maxIdle = 10_000

func runStreams(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	idle := flags.Int("idle", 600, "streams that are opened and never used")
	burst := flags.Int("burst", 300, "unary calls at once beside them")
	hold := flags.Duration("hold", 3*time.Second, "how long the streams stay")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	if *idle > maxIdle || *burst > maxIdle {
		return nil, false, errors.New("idle or burst out of range")
	}
	session, err := transport.Dial(ctx, *options)
	if err != nil {
		return nil, false, err
	}
	defer session.Close()
	clients := []agentpb.DRPCAgentClient{agentpb.NewDRPCAgentClient(session)}

	result := &streamsResult{}
	var streams []*yamux.Stream
	for range *idle {
		stream, err := session.Mux.OpenStream()
		if err != nil {
			return nil, false, err
		}
		streams = append(streams, stream)
	}
	result.Opened = len(streams)
	result.Burst = makeCalls(ctx, clients, *burst, *burst, methods["stats"])
	select {
	case <-time.After(*hold):
	case <-ctx.Done():
	}
	result.After = makeCalls(ctx, clients, 10, 1, methods["stats"])
	for _, stream := range streams {
		_ = stream.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, yamux.ErrTimeout) {
			result.Reset++
		}
	}
	result.SessionEnd = session.Mux.IsClosed()
	ok := result.Reset == 0 && !result.SessionEnd && len(result.Burst.Errors)+len(result.After.Errors) == 0
	return result, ok, nil
}

// idleResult says how many agents were held.
type idleResult struct {
	Agents int `json:"agents"`
	Lost   int `json:"lost"`
	// Errors counts what the reports were answered, by text.
	Errors map[string]int `json:"errors"`
}

func runIdle(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	agents := flags.Int("agents", 0, "sessions, each with its two long streams; 0 is one for each token")
	tokens := tokensFlag(flags)
	hold := flags.Duration("hold", 10*time.Second, "how long they stay")
	report := flags.Bool("report", false, "also report statistics and ask for banners, as often as a real agent does")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	dials, err := asAgents(*options, *tokens, *agents)
	if err != nil {
		return nil, false, err
	}
	return holdIdle(ctx, dials, *hold, *report)
}
