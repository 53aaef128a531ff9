package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/refserver"
	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

func app(change func(*agentpb.WorkspaceApp)) func(*agentpb.Manifest) {
	return func(m *agentpb.Manifest) {
		result := &agentpb.WorkspaceApp{
			Id: m.AgentId, Slug: "code", SharingLevel: agentpb.WorkspaceApp_OWNER,
			Health: agentpb.WorkspaceApp_INITIALIZING, Healthcheck: &agentpb.WorkspaceApp_Healthcheck{},
		}
		change(result)
		m.Apps = append(m.Apps, result)
	}
}

// Case 54 of the connection cases, and what else a real agent refuses.
func TestConn054ABadManifestKeepsItRedialing(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]struct {
		manifest func(*agentpb.Manifest)
		text     string
	}{
		"all-zero agent id": {
			func(m *agentpb.Manifest) { m.AgentId = make([]byte, 16) }, "nil agentID returned by manifest",
		},
		"short agent id":  {func(m *agentpb.Manifest) { m.AgentId = m.AgentId[:15] }, "parse agent id"},
		"no workspace id": {func(m *agentpb.Manifest) { m.WorkspaceId = nil }, "parse workspace id"},
		"short parent id": {func(m *agentpb.Manifest) { m.ParentId = []byte{1} }, "parse parent id"},
		"no log source":   {func(m *agentpb.Manifest) { m.Scripts[0].LogSourceId = nil }, "log source id"},
		"no health":       {app(func(a *agentpb.WorkspaceApp) { a.Health = 0 }), "unknown health"},
		"unknown health":  {app(func(a *agentpb.WorkspaceApp) { a.Health = 77 }), "unknown health"},
		"no sharing":      {app(func(a *agentpb.WorkspaceApp) { a.SharingLevel = 0 }), "unknown sharing level"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, server := run(t, 3*time.Second, &refserver.Script{Manifest: bad.manifest}, agent.Config{})
			if report.OK || report.Died != "" || report.Connections < 2 {
				t.Fatalf("%+v", report)
			}
			if text := report.Redials[0].Error; !strings.Contains(text, bad.text) {
				t.Fatalf("%s", text)
			}
			if count(server.Events(), "UpdateLifecycle STARTING") > 0 {
				t.Fatal("it started")
			}
		})
	}
}

func TestWhatARealAgentDereferencesEndsTheProcess(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]*refserver.Script{
		"no healthcheck": {Manifest: app(func(a *agentpb.WorkspaceApp) { a.Healthcheck = nil })},
		"no home_params in the manifest": {Manifest: func(m *agentpb.Manifest) {
			m.DerpMap = &tailnetpb.DERPMap{}
		}},
		"no home_params in the stream": {DERPMap: func(m *tailnetpb.DERPMap) { m.HomeParams = nil }},
		"a node without node": {Peers: []*tailnetpb.CoordinateResponse{{
			PeerUpdates: []*tailnetpb.CoordinateResponse_PeerUpdate{
				{Kind: tailnetpb.CoordinateResponse_PeerUpdate_NODE},
			},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, _ := run(t, 10*time.Second, script, agent.Config{})
			if report.OK || report.Died == "" || report.Status != "died" {
				t.Fatalf("%+v", report)
			}
		})
	}
}

func TestAGoodAppIsReportedHealthyAndNoMapIsFine(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{Manifest: func(m *agentpb.Manifest) {
		app(func(*agentpb.WorkspaceApp) {})(m)
		m.DerpMap, m.Directory = nil, "~/src"
	}}
	report, server := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 5 * time.Second})
	if !report.OK || report.Connections != 1 {
		t.Fatalf("%+v", report)
	}
	has(t, server.Events(), "BatchUpdateAppHealths HEALTHY")
	has(t, server.Events(), "UpdateStartup /home/reference/src")
}

// Cases 57 and 58 of the connection cases: what must end first ends first, and logs flow to the last.
func TestConn057And058AStoppingAgentKeepsReporting(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{
		StatsInterval: func(int) time.Duration { return 20 * time.Millisecond },
		Manifest: func(m *agentpb.Manifest) {
			id := uuid.New()
			m.Scripts = append(m.Scripts, &agentpb.WorkspaceAgentScript{
				Id: id[:], LogSourceId: id[:], Script: "stop", RunOnStop: true,
			})
		},
	}
	config := agent.Config{StopAfterReady: 300 * time.Millisecond, StopScript: 4 * time.Second}
	report, server := run(t, 20*time.Second, script, config)
	if !report.OK || report.ScriptRuns["stop"] != 1 || report.LogLines != 6 {
		t.Fatalf("%+v", report)
	}
	events := server.Events()
	disconnect := has(t, events, "Coordinate disconnect")
	order := []int{
		has(t, events, "UpdateLifecycle READY"),
		has(t, events, "UpdateLifecycle SHUTTING_DOWN"),
		has(t, events, "BatchCreateLogs running since 1s"),
		has(t, events, "UpdateLifecycle OFF"),
	}
	if !slices.IsSorted(order) || disconnect > order[2] {
		t.Fatalf("%q", events)
	}
	if slices.Contains(events[order[2]:], "UpdateStats stats=true") {
		t.Fatalf("stats after the end of stats: %q", events)
	}
}

func TestAServerThatDoesNotEndCoordinateIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	config := agent.Config{StopAfterReady: 50 * time.Millisecond}
	report, _ := run(t, 20*time.Second, &refserver.Script{IgnoreDisconnect: true}, config)
	if report.OK || report.Status != "unfinished" || report.DisconnectEnded {
		t.Fatalf("%+v", report)
	}
	if took := report.Steps["stopped"] - report.Steps["stopping"]; took < 5000 || took > 10_000 {
		t.Fatalf("took %d ms", took)
	}
}

// A refused state keeps failing its connection: the agent dials again with pauses, until its time is over.
func TestAStoppingAgentRedialsWithPauses(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{Lifecycle: func(state agentpb.Lifecycle_State) error {
		if state == agentpb.Lifecycle_SHUTTING_DOWN {
			return refserver.Unimplemented()
		}
		return nil
	}}
	report, _ := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 50 * time.Millisecond})
	if report.OK || report.Status != "unfinished" || report.Connections < 3 || report.Connections > 8 {
		t.Fatalf("%+v", report)
	}
}

func TestAKilledAgentSaysNothing(t *testing.T) {
	t.Parallel()
	config := agent.Config{StopAfterReady: 200 * time.Millisecond, Abrupt: true}
	report, server := run(t, 20*time.Second, &refserver.Script{}, config)
	if !report.OK || report.Status != "killed" || strings.Join(report.Lifecycle, " ") != "STARTING READY" {
		t.Fatalf("%+v", report)
	}
	if count(server.Events(), "Coordinate disconnect") > 0 {
		t.Fatalf("%q", server.Events())
	}
}

// Case 31 of the connection cases needs a peer that is silent without closing; yamux alone would close it.
func TestConn031AFrozenAgentWaitsForTheServer(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{KeepAlive: 2 * time.Second}
	report, _ := run(t, 15*time.Second, script, agent.Config{FreezeAfter: 200 * time.Millisecond})
	if !report.OK || report.Status != "frozen" || report.Connections != 1 {
		t.Fatalf("%+v", report)
	}
	if silent := report.Steps["frozen_closed"] - report.Steps["frozen"]; silent < 100 || silent > 10_000 {
		t.Fatalf("closed after %d ms", silent)
	}
}

func TestAFrozenAgentThatNobodyClosesIsNotOK(t *testing.T) {
	t.Parallel()
	report, _ := run(t, 4*time.Second, &refserver.Script{}, agent.Config{FreezeAfter: 100 * time.Millisecond})
	if report.OK || report.Status != "frozen" {
		t.Fatalf("%+v", report)
	}
}

func TestOnlyLoopbackIsDialed(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://192.0.2.1:3000", "http://example.com", "http://[2001:db8::1]:3000", "http://"} {
		_, err := transport.Dial(t.Context(), transport.Options{URL: url})
		if err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
