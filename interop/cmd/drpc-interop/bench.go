package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/refserver"
	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// dialsAtOnce bounds how many sessions are being dialed.
const dialsAtOnce = 32

// An idle agent's reports: statistics as often as the server says by default, banners as often as a real agent asks.
const (
	statsInterval  = 30 * time.Second
	bannerInterval = 2 * time.Minute
)

// holdIdle opens sessions with their two long streams and keeps them, silent or with an idle agent's reports.
func holdIdle(ctx context.Context, agents []transport.Options, hold time.Duration, report bool) (any, bool, error) {
	dials := semaphore.NewWeighted(dialsAtOnce)
	var mu sync.Mutex
	var wait sync.WaitGroup
	var sessions []*transport.Session
	var failed error
	for _, options := range agents {
		if err := dials.Acquire(ctx, 1); err != nil {
			return nil, false, err
		}
		wait.Add(1)
		go func() {
			defer wait.Done()
			defer dials.Release(1)
			session, err := dialIdle(ctx, options)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			sessions = append(sessions, session)
		}()
	}
	wait.Wait()
	if failed != nil {
		return nil, false, failed
	}
	fmt.Fprintln(os.Stderr, "held")
	held, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	result := &idleResult{Agents: len(sessions), Errors: map[string]int{}}
	if report {
		for _, session := range sessions {
			wait.Add(1)
			go func() {
				defer wait.Done()
				for text, count := range reportIdle(held, session) {
					mu.Lock()
					result.Errors[text] += count
					mu.Unlock()
				}
			}()
		}
		wait.Wait()
	}
	<-held.Done()
	for _, session := range sessions {
		if session.Mux.IsClosed() {
			result.Lost++
		}
		_ = session.Close()
	}
	return result, result.Lost == 0 && len(result.Errors) == 0, nil
}

// reportIdle reports what an idle agent does until the context ends, and counts the errors by their texts.
func reportIdle(ctx context.Context, session *transport.Session) map[string]int {
	client := agentpb.NewDRPCAgentClient(session)
	failed := map[string]int{}
	note := func(err error) {
		if err != nil && ctx.Err() == nil {
			failed[err.Error()]++
		}
	}
	// Agents did not all begin in the same moment.
	if !pause(ctx, rand.N(statsInterval)) {
		return failed
	}
	stats, banners := time.NewTicker(statsInterval), time.NewTicker(bannerInterval)
	defer stats.Stop()
	defer banners.Stop()
	for {
		select {
		case <-ctx.Done():
			return failed
		case <-stats.C:
			_, err := client.UpdateStats(ctx, &agentpb.UpdateStatsRequest{Stats: &agentpb.Stats{ConnectionMedianLatencyMs: -1}})
			note(err)
		case <-banners.C:
			_, err := client.GetAnnouncementBanners(ctx, &agentpb.GetAnnouncementBannersRequest{})
			note(err)
		}
	}
}

func dialIdle(ctx context.Context, options transport.Options) (*transport.Session, error) {
	session, err := transport.Dial(ctx, options)
	if err != nil {
		return nil, err
	}
	client := tailnetpb.NewDRPCTailnetClient(session)
	maps, err := client.StreamDERPMaps(context.Background(), &tailnetpb.StreamDERPMapsRequest{})
	if err != nil {
		return nil, err
	}
	if _, err := maps.Recv(); err != nil {
		return nil, err
	}
	coordinate, err := client.Coordinate(context.Background())
	if err != nil {
		return nil, err
	}
	node := agent.Node(uuid.New(), 0)
	node.Addresses, node.AllowedIps = nil, nil
	update := &tailnetpb.CoordinateRequest{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: node}}
	return session, coordinate.Send(update)
}

func runBenchServer(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	address := flags.String("address", "127.0.0.1:0", "loopback address to listen on")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return nil, false, err
	}
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return nil, false, fmt.Errorf("%s is not a loopback address", listener.Addr())
	}
	fmt.Fprintf(os.Stderr, "listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: refserver.New(&refserver.Script{}), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	_ = server.Serve(listener)
	return struct{}{}, true, nil
}
