package agent_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/refserver"
	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// run runs a reference agent against a scripted server for at most d.
func run(t *testing.T, d time.Duration, script *refserver.Script, config agent.Config) *agent.Report {
	t.Helper()
	server := httptest.NewServer(refserver.New(script))
	t.Cleanup(server.CloseClientConnections)
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	config.Dial = transport.Options{URL: server.URL, Token: "any", Version: "2.8", Role: "agent"}
	return agent.Run(ctx, config)
}

func TestBecomesReadyAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	report := run(t, 20*time.Second, &refserver.Script{}, agent.Config{StopAfterReady: 200 * time.Millisecond})
	if want := "STARTING READY SHUTTING_DOWN OFF"; strings.Join(report.Lifecycle, " ") != want {
		t.Fatalf("lifecycle %v, want %s", report.Lifecycle, want)
	}
	if !report.OK || report.Connections != 1 || !report.DisconnectEnded || report.LogLines != 1 {
		t.Fatalf("%+v", report)
	}
}

// Case 48 of the connection cases.
func TestUnimplementedMonitoringKeepsItRedialing(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{
		Monitoring: func() (*agentpb.GetResourcesMonitoringConfigurationResponse, error) {
			return nil, refserver.Unimplemented()
		},
	}
	report := run(t, 3*time.Second, script, agent.Config{})
	if report.Connections < 4 {
		t.Fatalf("%d connections", report.Connections)
	}
}

// Case 48 of the connection cases.
func TestBadMonitoringConfigurationEndsTheProcess(t *testing.T) {
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
			if report := run(t, 10*time.Second, script, agent.Config{}); report.Died == "" {
				t.Fatalf("survived: %+v", report)
			}
		})
	}
}

// Case 49 of the connection cases.
func TestABannerErrorCostsOneReconnect(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{Banners: func(n int) error {
		if n == 0 {
			return errors.New("fetch appearance: away")
		}
		return nil
	}}
	report := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 100 * time.Millisecond})
	if !report.OK || report.Connections != 2 || report.ScriptRuns["start"] != 1 {
		t.Fatalf("%+v", report)
	}
}

// Case 54 of the connection cases.
func TestAnAllZeroAgentIDKeepsItRedialing(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{Manifest: func(m *agentpb.Manifest) { m.AgentId = make([]byte, 16) }}
	report := run(t, 2*time.Second, script, agent.Config{})
	if report.OK || report.Connections < 3 || !strings.Contains(report.Redials[0].Error, "nil agentID") {
		t.Fatalf("%+v", report)
	}
}

// Case 53 of the connection cases.
func TestTheLogLimitEndsLogsAndNothingElse(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{LogLimit: true}
	report := run(t, 20*time.Second, script, agent.Config{StopAfterReady: 1500 * time.Millisecond, ExtraLogLines: 10})
	if !report.OK || report.Connections != 1 || report.RPCs["BatchCreateLogs"].Calls != 1 {
		t.Fatalf("%+v", report)
	}
}

// Case 56 of the connection cases, a hundred times as fast.
func TestANewStatsIntervalIsHonoured(t *testing.T) {
	t.Parallel()
	script := &refserver.Script{StatsInterval: func(n int) time.Duration {
		if n == 0 {
			return 300 * time.Millisecond
		}
		return 50 * time.Millisecond
	}}
	report := run(t, 20*time.Second, script, agent.Config{StopAfterReady: time.Second})
	if len(report.StatsAt) < 5 {
		t.Fatalf("reports at %v", report.StatsAt)
	}
	first, second := report.StatsAt[1]-report.StatsAt[0], report.StatsAt[2]-report.StatsAt[1]
	if first < 300 || second < 50 || second >= first {
		t.Fatalf("reports at %v", report.StatsAt)
	}
}

func TestACutConnectionIsDialedAgainWithoutStartingTwice(t *testing.T) {
	t.Parallel()
	config := agent.Config{CutEvery: 200 * time.Millisecond, Cuts: 2, StopAfterReady: 2 * time.Second}
	report := run(t, 20*time.Second, &refserver.Script{}, config)
	if !report.OK || report.Connections != 3 || report.ScriptRuns["start"] != 1 {
		t.Fatalf("%+v", report)
	}
}
