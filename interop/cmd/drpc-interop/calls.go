package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// callsResult says how many calls went how.
type callsResult struct {
	Calls   int            `json:"calls"`
	Errors  map[string]int `json:"errors"`
	Seconds float64        `json:"seconds"`
	P50     int64          `json:"p50_us"`
	P99     int64          `json:"p99_us"`
	Max     int64          `json:"max_us"`
}

// maxCalls bounds a run.
const maxCalls = 10_000_000

func runCalls(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	count := flags.Int("count", 20_000, "calls in all")
	concurrency := flags.Int("concurrency", 1, "callers at a time")
	sessions := flags.Int("sessions", 1, "sessions that they share")
	tokens := tokensFlag(flags)
	method := flags.String("method", "metadata", "metadata, stats, use, banners or unimplemented")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	if *count > maxCalls || *concurrency < 1 || *sessions < 1 {
		return nil, false, errors.New("count, concurrency or sessions out of range")
	}
	call, ok := methods[*method]
	if !ok {
		return nil, false, fmt.Errorf("unknown method %q", *method)
	}
	dials, err := asAgents(*options, *tokens, *sessions)
	if err != nil {
		return nil, false, err
	}
	clients := make([]agentpb.DRPCAgentClient, *sessions)
	for i, dial := range dials {
		session, err := transport.Dial(ctx, dial)
		if err != nil {
			return nil, false, err
		}
		defer session.Close()
		clients[i] = agentpb.NewDRPCAgentClient(session)
	}
	result := makeCalls(ctx, clients, *count, *concurrency, call)
	return result, len(result.Errors) == 0, nil
}

// methods are the calls that a load can be made of; each knows whether the answer was right.
var methods = map[string]func(context.Context, agentpb.DRPCAgentClient, int) error{
	"metadata": func(ctx context.Context, client agentpb.DRPCAgentClient, i int) error {
		_, err := client.BatchUpdateMetadata(ctx, &agentpb.BatchUpdateMetadataRequest{Metadata: []*agentpb.Metadata{
			{Key: "cpu", Result: &agentpb.WorkspaceAgentMetadata_Result{Value: fmt.Sprint(i)}},
		}})
		return err
	},
	"stats": func(ctx context.Context, client agentpb.DRPCAgentClient, _ int) error {
		response, err := client.UpdateStats(ctx, &agentpb.UpdateStatsRequest{})
		if err == nil && response.ReportInterval.AsDuration() <= 0 {
			return errors.New("no interval")
		}
		return err
	},
	// use is what an agent says while somebody works in its workspace.
	"use": func(ctx context.Context, client agentpb.DRPCAgentClient, i int) error {
		if _, err := client.UpdateStats(ctx, &agentpb.UpdateStatsRequest{Stats: &agentpb.Stats{
			ConnectionCount: 1,
			Metrics: []*agentpb.Stats_Metric{{
				Name: "agent_scripts_total", Type: agentpb.Stats_Metric_COUNTER, Value: float64(i),
				Labels: []*agentpb.Stats_Metric_Label{{Name: "success", Value: "true"}},
			}},
		}}); err != nil {
			return err
		}
		_, err := client.UpdateLifecycle(ctx, &agentpb.UpdateLifecycleRequest{Lifecycle: &agentpb.Lifecycle{
			State: agentpb.Lifecycle_READY, ChangedAt: timestamppb.Now(),
		}})
		return err
	},
	"banners": func(ctx context.Context, client agentpb.DRPCAgentClient, _ int) error {
		_, err := client.GetAnnouncementBanners(ctx, &agentpb.GetAnnouncementBannersRequest{})
		return err
	},
	"unimplemented": func(ctx context.Context, client agentpb.DRPCAgentClient, _ int) error {
		// Not for agents, on any server.
		tailnet := tailnetpb.NewDRPCTailnetClient(client.DRPCConn())
		_, err := tailnet.RefreshResumeToken(ctx, &tailnetpb.RefreshResumeTokenRequest{})
		if err == nil || err.Error() != "Unimplemented" {
			return fmt.Errorf("expected Unimplemented, got %v", err)
		}
		return nil
	},
	// errors has no session state behind it: an empty lifecycle is refused before anything is read.
	"errors": func(ctx context.Context, client agentpb.DRPCAgentClient, _ int) error {
		_, err := client.UpdateLifecycle(ctx, &agentpb.UpdateLifecycleRequest{})
		if err == nil || err.Error() != "lifecycle is required" {
			return fmt.Errorf("expected a refusal, got %v", err)
		}
		return nil
	},
}

func makeCalls(
	ctx context.Context, clients []agentpb.DRPCAgentClient, count, concurrency int,
	call func(context.Context, agentpb.DRPCAgentClient, int) error,
) *callsResult {
	var next atomic.Int64
	var mu sync.Mutex
	var wait sync.WaitGroup
	result := &callsResult{Errors: map[string]int{}}
	var latencies []int64
	start := time.Now()
	for worker := range concurrency {
		wait.Add(1)
		go func() {
			defer wait.Done()
			client := clients[worker%len(clients)]
			own := make([]int64, 0, count/concurrency+1)
			failed := map[string]int{}
			for {
				i := int(next.Add(1))
				if i > count || ctx.Err() != nil {
					break
				}
				began := time.Now()
				if err := call(ctx, client, i); err != nil {
					failed[err.Error()]++
				}
				own = append(own, time.Since(began).Microseconds())
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
			for text, n := range failed {
				result.Errors[text] += n
			}
		}()
	}
	wait.Wait()
	result.Seconds = time.Since(start).Seconds()
	result.Calls = len(latencies)
	if len(latencies) > 0 {
		slices.Sort(latencies)
		result.P50 = latencies[len(latencies)/2]
		result.P99 = latencies[len(latencies)*99/100]
		result.Max = latencies[len(latencies)-1]
	}
	if result.Calls < count {
		result.Errors["not all calls were made"]++
	}
	return result
}
