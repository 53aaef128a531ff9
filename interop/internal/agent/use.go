package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// childConnects bounds how long a sub agent's own session may take.
const childConnects = 10 * time.Second

// use does once what people and tools make a ready agent do: editors and shells come and go, a dev container brings a
// sub agent, a task reports, a sandbox asks for pages, memory runs short. None of it ends the session when it fails.
func (c *connection) use(ctx context.Context) error {
	for !c.isReady() {
		if !sleep(ctx, 20*time.Millisecond) {
			return nil
		}
	}
	c.visits(ctx)
	c.subAgents(ctx)
	c.appStatuses(ctx)
	c.boundaryLogs(ctx)
	c.shortage(ctx)
	c.report.step("used")
	c.progress("used")
	return nil
}

// isReady is whether the server knows that the agent is ready.
func (a *Agent) isReady() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, lifecycle := range a.lifecycle[:a.reported] {
		if lifecycle.State == agentpb.Lifecycle_READY {
			return true
		}
	}
	return false
}

// visits reports a shell that came and went, and an editor that stays.
func (c *connection) visits(ctx context.Context) {
	shell, editor := uuid.New(), uuid.New()
	for _, connection := range []*agentpb.Connection{
		{Id: shell[:], Action: agentpb.Connection_CONNECT, Type: agentpb.Connection_SSH, Ip: "localhost"},
		{Id: editor[:], Action: agentpb.Connection_CONNECT, Type: agentpb.Connection_VSCODE, Ip: "192.0.2.7"},
		{
			Id: shell[:], Action: agentpb.Connection_DISCONNECT, Type: agentpb.Connection_SSH, Ip: "localhost",
			StatusCode: 255, Reason: proto.String("process exited with error status: 255"),
		},
	} {
		connection.Timestamp = timestamppb.Now()
		response, err := c.client.ReportConnection(ctx, &agentpb.ReportConnectionRequest{Connection: connection})
		_, _ = call(ctx, c, "ReportConnection", response, err)
	}
}

// subAgents creates two sub agents, connects as the first, and deletes the second.
func (c *connection) subAgents(ctx context.Context) {
	create := func(name string) *agentpb.CreateSubAgentResponse {
		response, err := c.client.CreateSubAgent(ctx, &agentpb.CreateSubAgentRequest{
			Name: name, Directory: "/workspaces/" + name, Architecture: "amd64", OperatingSystem: "linux",
			Apps: []*agentpb.CreateSubAgentRequest_App{
				{
					Slug: "code-server", DisplayName: proto.String("code-server"), Url: proto.String("http://127.0.0.1:13337"),
					OpenIn: agentpb.CreateSubAgentRequest_App_TAB.Enum(),
					Healthcheck: &agentpb.CreateSubAgentRequest_App_Healthcheck{
						Interval: 5, Threshold: 6, Url: "http://127.0.0.1:13337/healthz",
					},
				},
				{Slug: "Not A Slug"},
			},
			DisplayApps: []agentpb.CreateSubAgentRequest_DisplayApp{
				agentpb.CreateSubAgentRequest_VSCODE, agentpb.CreateSubAgentRequest_WEB_TERMINAL,
			},
		})
		response, _ = call(ctx, c, "CreateSubAgent", response, err)
		return response
	}
	name := c.name()
	kept, deleted := create(name+"-web"), create(name+"-gone")
	if kept.GetAgent() == nil || deleted.GetAgent() == nil {
		return
	}
	child, err := c.asChild(ctx, kept.Agent)
	_, err = call(ctx, c, "GetManifest as sub agent", child, err)
	request := &agentpb.DeleteSubAgentRequest{Id: deleted.Agent.Id}
	response, err2 := c.client.DeleteSubAgent(ctx, request)
	_, err2 = call(ctx, c, "DeleteSubAgent", response, err2)
	list, err3 := c.client.ListSubAgents(ctx, &agentpb.ListSubAgentsRequest{})
	list, err3 = call(ctx, c, "ListSubAgents", list, err3)
	if errors.Join(err, err2, err3) != nil {
		return
	}
	c.report.update(func(r *Report) {
		r.SubAgentErrors = message(&agentpb.CreateSubAgentResponse{AppCreationErrors: kept.AppCreationErrors})
		r.SubAgentManifest = message(child)
		for _, agent := range list.Agents {
			r.SubAgents = append(r.SubAgents, agent.Name)
		}
	})
}

// asChild dials with a sub agent's own token and asks for its manifest.
func (c *connection) asChild(ctx context.Context, child *agentpb.SubAgent) (*agentpb.Manifest, error) {
	token, err := uuid.FromBytes(child.AuthToken)
	if err != nil {
		return nil, fmt.Errorf("token of the sub agent: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, childConnects)
	defer cancel()
	options := c.config.Dial
	options.Token = token.String()
	session, err := transport.Dial(limited, options)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	return agentpb.NewDRPCAgentClient(session).GetManifest(limited, &agentpb.GetManifestRequest{})
}

// appStatuses reports the way of a task in the first app.
func (c *connection) appStatuses(ctx context.Context) {
	c.mu.Lock()
	apps := c.manifest.Apps
	c.mu.Unlock()
	if len(apps) == 0 {
		return
	}
	for _, status := range []*agentpb.UpdateAppStatusRequest{
		{State: agentpb.UpdateAppStatusRequest_WORKING, Message: "<b>Reading</b> the\nticket"},
		{State: agentpb.UpdateAppStatusRequest_COMPLETE, Message: "Done", Uri: "https://example.com/pull/1"},
	} {
		status.Slug = apps[0].Slug
		response, err := c.client.UpdateAppStatus(ctx, status)
		_, _ = call(ctx, c, "UpdateAppStatus", response, err)
	}
}

func (c *connection) boundaryLogs(ctx context.Context) {
	log := func(allowed bool, url, rule string) *agentpb.BoundaryLog {
		return &agentpb.BoundaryLog{
			Allowed: allowed, Time: timestamppb.Now(),
			Resource: &agentpb.BoundaryLog_HttpRequest_{HttpRequest: &agentpb.BoundaryLog_HttpRequest{
				Method: "GET", Url: url, MatchedRule: rule,
			}},
		}
	}
	response, err := c.client.ReportBoundaryLogs(ctx, &agentpb.ReportBoundaryLogsRequest{Logs: []*agentpb.BoundaryLog{
		log(true, "https://example.com/", "domain=example.com"),
		log(true, "https://example.com/docs", "domain=example.com"),
		log(false, "https://example.org/", ""),
	}})
	_, _ = call(ctx, c, "ReportBoundaryLogs", response, err)
}

// shortage pushes a full queue of datapoints without free memory, and with room on every volume.
func (c *connection) shortage(ctx context.Context) {
	monitors, err := c.client.GetResourcesMonitoringConfiguration(
		ctx, &agentpb.GetResourcesMonitoringConfigurationRequest{})
	if monitors, err = call(ctx, c, "GetResourcesMonitoringConfiguration", monitors, err); err != nil {
		return
	}
	request := &agentpb.PushResourcesMonitoringUsageRequest{}
	for range monitors.GetConfig().GetNumDatapoints() {
		point := datapoint(monitors)
		if point.Memory != nil {
			point.Memory.Used = point.Memory.Total
		}
		request.Datapoints = append(request.Datapoints, point)
	}
	response, err := c.client.PushResourcesMonitoringUsage(ctx, request)
	_, _ = call(ctx, c, "PushResourcesMonitoringUsage", response, err)
}

// name is the agent's own, from its manifest.
func (a *Agent) name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.manifest.AgentName
}
