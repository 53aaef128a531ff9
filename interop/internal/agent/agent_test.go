package agent_test

import (
	"context"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/refserver"
	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// TestMain lets the tests wait side by side: they sleep far more than they work.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// serve runs a scripted server until the test ends.
func serve(t *testing.T, script *refserver.Script) (*refserver.Server, string) {
	t.Helper()
	script.Record = true
	handler := refserver.New(script)
	server := httptest.NewServer(handler)
	t.Cleanup(server.CloseClientConnections)
	return handler, server.URL
}

// run runs a reference agent against a scripted server; it is told to stop after d.
func run(
	t *testing.T, d time.Duration, script *refserver.Script, config agent.Config,
) (*agent.Report, *refserver.Server) {
	t.Helper()
	handler, url := serve(t, script)
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if config.Dial.Version == "" && config.Dial.Role == "" {
		config.Dial = transport.Options{Version: "2.8", Role: "agent"}
	}
	config.Dial.URL, config.Dial.Token = url, "any"
	return agent.Run(ctx, config), handler
}

// has is the place of an event, and fails the test without it.
func has(t *testing.T, events []string, event string) int {
	t.Helper()
	index := slices.Index(events, event)
	if index < 0 {
		t.Fatalf("no %q in %q", event, events)
	}
	return index
}

func count(events []string, event string) int {
	n := 0
	for _, each := range events {
		if each == event {
			n++
		}
	}
	return n
}

func TestBecomesReadyAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	report, server := run(t, 20*time.Second, &refserver.Script{}, agent.Config{StopAfterReady: 2 * time.Second})
	if want := "STARTING READY SHUTTING_DOWN OFF"; strings.Join(report.Lifecycle, " ") != want {
		t.Fatalf("lifecycle %v, want %s", report.Lifecycle, want)
	}
	if !report.OK || report.Status != "stopped" || report.Connections != 1 || !report.DisconnectEnded {
		t.Fatalf("%+v", report)
	}
	events := server.Events()
	for _, event := range []string{"dial version=2.8 role=agent", "GetManifest", "GetAnnouncementBanners",
		"GetResourcesMonitoringConfiguration", "StreamDERPMaps", "UpdateStats stats=false"} {
		if n := count(events, event); n != 1 {
			t.Errorf("%s: %d times in %q", event, n, events)
		}
	}
	if has(t, events, "Coordinate node home=0 addresses=2") > has(t, events, "Coordinate node home=999 addresses=2") {
		t.Errorf("the node with a home came first: %q", events)
	}
	if count(events, "Coordinate add_tunnel") > 0 || count(events, "Coordinate lost") > 0 {
		t.Errorf("%q", events)
	}
}

// Case 48 of the connection cases.
func TestConn048UnimplementedMonitoringKeepsItRedialing(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{
		Monitoring: func() (*agentpb.GetResourcesMonitoringConfigurationResponse, error) {
			return nil, refserver.Unimplemented()
		},
	}
	report, _ := run(t, 5*time.Second, script, agent.Config{})
	if report.Connections < 4 || len(report.Redials) < 3 || report.Status == "died" {
		t.Fatalf("%+v", report)
	}
	for i, want := range []int64{161, 261, 423} {
		if got := report.Redials[i]; got.PauseMS != want || !strings.Contains(got.Error, "Unimplemented") {
			t.Errorf("redial %d: %+v, want a pause of %d ms", i, got, want)
		}
	}
}

// Case 48 of the connection cases.
func TestConn048BadMonitoringConfigurationEndsTheProcess(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*agentpb.GetResourcesMonitoringConfigurationResponse_Config{
		"absent":        nil,
		"no datapoints": {CollectionIntervalSeconds: 10},
		"no interval":   {NumDatapoints: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := &refserver.Script{
				Monitoring: func() (*agentpb.GetResourcesMonitoringConfigurationResponse, error) {
					return &agentpb.GetResourcesMonitoringConfigurationResponse{Config: config}, nil
				},
			}
			if report, _ := run(t, 10*time.Second, script, agent.Config{}); report.Died == "" || report.OK {
				t.Fatalf("survived: %+v", report)
			}
		})
	}
}

// Case 49 of the connection cases.
func TestConn049ABannerErrorCostsOneReconnect(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{Banners: func(n int) error {
		if n == 0 {
			return errors.New("fetch appearance: away")
		}
		return nil
	}}
	report, _ := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 100 * time.Millisecond})
	if !report.OK || report.Connections != 2 || report.ScriptRuns["start"] != 1 {
		t.Fatalf("%+v", report)
	}
	if !strings.Contains(report.Redials[0].Error, "init banners: fetch appearance: away") {
		t.Fatalf("%+v", report.Redials)
	}
}

// Case 59 of the connection cases: the calls of API 2.0 suffice.
func TestConn059AnOldAgentAsksForTheOldBanner(t *testing.T) {
	t.Parallel()
	config := agent.Config{StopAfterReady: 2 * time.Second, Dial: transport.Options{Version: "2.0"}}
	report, server := run(t, 20*time.Second, &refserver.Script{}, config)
	if !report.OK || report.RPCs["GetServiceBanner"] == nil {
		t.Fatalf("%+v", report)
	}
	for _, method := range []string{"GetAnnouncementBanners", "GetResourcesMonitoringConfiguration", "ScriptCompleted"} {
		if report.RPCs[method] != nil {
			t.Errorf("called %s", method)
		}
	}
	has(t, server.Events(), "dial version=2.0 role=")
}

// Case 50 of the connection cases, the half of it that this agent does.
func TestConn050AnUnimplementedScriptCompletedCostsTheTiming(t *testing.T) {
	t.Parallel()
	report, _ := run(t, 20*time.Second, &refserver.Script{}, agent.Config{StopAfterReady: 2 * time.Second})
	if rpc := report.RPCs["ScriptCompleted"]; !report.OK || report.Connections != 1 || rpc == nil || rpc.Failed != 1 {
		t.Fatalf("%+v", report)
	}
}

// Case 50 of the connection cases, for all that a session survives.
func TestConn050WhatUseBringsCostsNoSession(t *testing.T) {
	t.Parallel()
	config := agent.Config{StopAfterReady: 8 * time.Second, Use: true}
	report, _ := run(t, 20*time.Second, &refserver.Script{}, config)
	if !report.OK || report.Connections != 1 || report.Steps["used"] == 0 {
		t.Fatalf("%+v", report)
	}
	for method, calls := range map[string]int{
		"ReportConnection": 3, "CreateSubAgent": 2, "ReportBoundaryLogs": 1, "PushResourcesMonitoringUsage": 1,
	} {
		if rpc := report.RPCs[method]; rpc == nil || rpc.Calls != calls {
			t.Errorf("%s: %+v", method, rpc)
		}
	}
}

// Case 53 of the connection cases.
func TestConn053TheLogLimitEndsLogsAndNothingElse(t *testing.T) {
	t.Parallel()
	config := agent.Config{
		StopAfterReady: 8 * time.Second, ExtraLogLines: 10, CutEvery: 500 * time.Millisecond, Cuts: 1,
	}
	report, _ := run(t, 20*time.Second, &refserver.Script{LogLimit: true}, config)
	if !report.OK || !report.LogLimitExceeded || report.RPCs["BatchCreateLogs"].Calls != 1 {
		t.Fatalf("%+v", report)
	}
	if report.Connections != 2 || report.Redials[0].Error != "cut" {
		t.Fatalf("%+v", report.Redials)
	}
}

// Case 56 of the connection cases, faster.
func TestConn056ANewStatsIntervalIsHonoured(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{StatsInterval: func(n int) time.Duration {
		if n == 0 {
			return 4 * time.Second
		}
		return 50 * time.Millisecond
	}}
	report, server := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 9 * time.Second})
	if len(report.StatsAt) < 4 || report.StatsInterval != 50 {
		t.Fatalf("reports at %v", report.StatsAt)
	}
	if first := report.StatsAt[1] - report.StatsAt[0]; first < 4000 {
		t.Errorf("reports at %v", report.StatsAt)
	}
	// Two more in less than one old interval, or else the old one still held.
	if both := report.StatsAt[3] - report.StatsAt[1]; both < 100 || both >= 8000 {
		t.Errorf("reports at %v", report.StatsAt)
	}
	events := server.Events()
	if n := count(events, "UpdateStats stats=false"); n != 1 || has(t, events, "UpdateStats stats=true") == 0 {
		t.Errorf("%d empty requests", n)
	}
}

// Case 51 of the connection cases, with the pauses of case 52.
func TestConn051ACutConnectionIsDialedAgainWithoutStartingTwice(t *testing.T) {
	t.Parallel()
	for name, fin := range map[string]bool{"reset": false, "fin": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := agent.Config{
				CutEvery: 200 * time.Millisecond, Cuts: 2, CutFIN: fin, StopAfterReady: 8 * time.Second,
			}
			report, server := run(t, 20*time.Second, &refserver.Script{}, config)
			if !report.OK || report.Connections != 3 || report.ScriptRuns["start"] != 1 {
				t.Fatalf("%+v", report)
			}
			if n := count(server.Events(), "UpdateLifecycle STARTING"); n != 1 {
				t.Fatalf("starting reported %d times", n)
			}
			if report.Redials[0].PauseMS != 161 || report.Redials[1].PauseMS != 261 {
				t.Fatalf("%+v", report.Redials)
			}
		})
	}
}

// The monotonic part of case 51: a state that the server did not take is reported on the next connection.
func TestAnUnreportedStateSurvivesAReconnect(t *testing.T) {
	t.Parallel()
	failed := false
	script := &refserver.Script{Lifecycle: func(state agentpb.Lifecycle_State) error {
		if state == agentpb.Lifecycle_READY && !failed {
			failed = true
			return errors.New("away")
		}
		return nil
	}}
	report, _ := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 100 * time.Millisecond})
	if want := "STARTING READY SHUTTING_DOWN OFF"; !report.OK || strings.Join(report.Lifecycle, " ") != want {
		t.Fatalf("%+v", report)
	}
	if report.Connections != 2 {
		t.Fatalf("%d connections", report.Connections)
	}
}

// The nanoseconds of an interval are seconds, and 0 is once.
func TestMetadataIsCollectedInItsInterval(t *testing.T) {
	t.Parallel()
	item := func(key string, interval time.Duration) *agentpb.WorkspaceAgentMetadata_Description {
		return &agentpb.WorkspaceAgentMetadata_Description{Key: key, Interval: durationpb.New(interval)}
	}
	script := &refserver.Script{Manifest: func(m *agentpb.Manifest) {
		m.Metadata = []*agentpb.WorkspaceAgentMetadata_Description{item("once", 0), item("fast", 1), item("slow", 60)}
	}}
	report, _ := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 5500 * time.Millisecond})
	values := report.MetadataValues
	if !report.OK || values["once"] != 1 || values["slow"] != 1 || values["fast"] < 2 || values["fast"] > 7 {
		t.Fatalf("%v", values)
	}
}

func TestPeersAreAnsweredWithReadyForHandshake(t *testing.T) {
	t.Parallel()
	node := func(id byte) *tailnetpb.CoordinateResponse_PeerUpdate {
		return &tailnetpb.CoordinateResponse_PeerUpdate{
			Id: []byte{id}, Kind: tailnetpb.CoordinateResponse_PeerUpdate_NODE, Node: &tailnetpb.Node{},
		}
	}
	lost := &tailnetpb.CoordinateResponse_PeerUpdate{
		Id: []byte{3}, Kind: tailnetpb.CoordinateResponse_PeerUpdate_LOST,
	}
	script := &refserver.Script{Peers: []*tailnetpb.CoordinateResponse{
		{PeerUpdates: []*tailnetpb.CoordinateResponse_PeerUpdate{node(1), node(1), lost, node(2)}},
		{Error: "ready for handshake error"},
	}}
	report, server := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 2 * time.Second})
	events := server.Events()
	if count(events, "Coordinate ready_for_handshake 01") != 2 || count(events, "Coordinate ready_for_handshake 02") != 1 ||
		count(events, "Coordinate ready_for_handshake 03") != 0 {
		t.Fatalf("%q", events)
	}
	if !report.OK || report.PeerUpdates["NODE"] != 3 || len(report.CoordinateErrors) != 1 || report.Connections != 1 {
		t.Fatalf("%+v", report)
	}
}
