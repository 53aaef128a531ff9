package main

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// crowdMix is what the agents of a crowd say, in turn.
var crowdMix = []string{"metadata", "stats", "banners"}

// crowdPatience bounds how long a call of a crowd may take.
const crowdPatience = 10 * time.Second

// crowdResult says how the calls of a crowd went.
type crowdResult struct {
	Agents int `json:"agents"`
	// Ended is how many sessions the server has ended.
	Ended  int            `json:"ended"`
	Calls  int            `json:"calls"`
	Errors map[string]int `json:"errors"`
	P50    int64          `json:"p50_us"`
	P99    int64          `json:"p99_us"`
	Max    int64          `json:"max_us"`
}

// runCrowd has many agents with a session each, that make a call every interval, and says how long those took. Calls are
// made when they are due, however long those before them took.
func runCrowd(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	tokens := tokensFlag(flags)
	duration := flags.Duration("duration", 5*time.Second, "how long calls are made")
	interval := flags.Duration("interval", 100*time.Millisecond, "time between the calls of an agent")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	dials, err := asAgents(*options, *tokens, 0)
	if err != nil {
		return nil, false, err
	}
	sessions := make([]*transport.Session, len(dials))
	for i, dial := range dials {
		if sessions[i], err = transport.Dial(ctx, dial); err != nil {
			return nil, false, err
		}
		defer sessions[i].Close()
	}
	result := &crowdResult{Agents: len(dials), Errors: map[string]int{}}
	due, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	var latencies []int64
	one := func(client agentpb.DRPCAgentClient, number int) {
		ctx, cancel := context.WithTimeout(ctx, crowdPatience)
		defer cancel()
		began := time.Now()
		err := methods[crowdMix[number%len(crowdMix)]](ctx, client, number)
		took := time.Since(began).Microseconds()
		mu.Lock()
		defer mu.Unlock()
		latencies = append(latencies, took)
		if err != nil {
			result.Errors[err.Error()]++
		}
	}
	for _, session := range sessions {
		client := agentpb.NewDRPCAgentClient(session)
		wait.Add(1)
		go func() {
			defer wait.Done()
			pause(due, rand.N(*interval))
			ticker := time.NewTicker(*interval)
			defer ticker.Stop()
			for number := 0; ; number++ {
				select {
				case <-due.Done():
					return
				case <-ticker.C:
					wait.Add(1)
					go func() {
						defer wait.Done()
						one(client, number)
					}()
				}
			}
		}()
	}
	wait.Wait()
	for _, session := range sessions {
		if session.Mux.IsClosed() {
			result.Ended++
		}
	}
	slices.Sort(latencies)
	if result.Calls = len(latencies); result.Calls > 0 {
		result.P50 = latencies[result.Calls/2]
		result.P99 = latencies[result.Calls*99/100]
		result.Max = latencies[result.Calls-1]
	}
	return result, result.Calls > 0 && len(result.Errors) == 0 && result.Ended == 0, nil
}
