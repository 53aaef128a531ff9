package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// connection is one session and its routines. An error of a fatal routine ends all of them.
type connection struct {
	*Agent
	ctx     context.Context
	cancel  context.CancelCauseFunc
	client  agentpb.DRPCAgentClient
	session *transport.Session
	freezer *freezer
	wait    sync.WaitGroup
}

// routine runs f until it is done; an error ends the session.
func (c *connection) routine(name string, f func() error) {
	c.wait.Add(1)
	go func() {
		defer c.wait.Done()
		if err := f(); err != nil {
			c.cancel(fmt.Errorf("%s: %w", name, err))
		}
	}()
}

// start begins what needs no manifest, all at once.
func (c *connection) start() {
	c.routine("init banners", c.banners)
	c.routine("resources monitor", c.monitorResources)
	c.routine("handle manifest", func() error {
		if err := c.handleManifest(); err != nil {
			return err
		}
		c.routine("app health", c.appHealth)
		c.routine("coordination", c.coordinate)
		c.routine("derp map", c.derpMaps)
		c.routine("banner loop", c.bannerLoop)
		c.routine("stats", c.stats)
		c.routine("report metadata", c.reportMetadata)
		c.routine("script timings", c.scriptTimings)
		c.plan()
		return nil
	})
	c.routine("send logs", c.sendLogs)
	c.routine("report lifecycle", c.reportLifecycle)
}

// plan does what the configuration says will happen to this session.
func (c *connection) plan() {
	c.mu.Lock()
	cut := c.config.CutEvery > 0 && c.cutsLeft > 0
	if cut {
		c.cutsLeft--
	}
	c.mu.Unlock()
	if cut {
		time.AfterFunc(c.config.CutEvery, func() {
			c.cancel(errors.New("cut"))
			c.session.Cut()
		})
	}
	if c.config.FreezeAfter > 0 {
		time.AfterFunc(c.config.FreezeAfter, func() {
			c.report.step("frozen")
			c.progress("frozen")
			c.freezer.freeze()
		})
	}
}

// sleep waits, or ends with the session.
func (c *connection) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-c.ctx.Done():
		return false
	}
}

// call counts a call; an error that is only the session's end is not the method's.
func call[T any](c *connection, method string, result T, err error) (T, error) {
	if c.ctx.Err() != nil && err != nil {
		return result, err
	}
	c.report.call(method, err)
	return result, err
}

func (c *connection) banners() error {
	response, err := c.client.GetAnnouncementBanners(c.ctx, &agentpb.GetAnnouncementBannersRequest{})
	if response, err = call(c, "GetAnnouncementBanners", response, err); err != nil {
		return err
	}
	c.report.update(func(r *Report) { r.Banners = message(response) })
	return nil
}

func (c *connection) bannerLoop() error {
	for c.sleep(c.config.BannerInterval) {
		if err := c.banners(); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) monitorResources() error {
	response, err := c.client.GetResourcesMonitoringConfiguration(
		c.ctx, &agentpb.GetResourcesMonitoringConfigurationRequest{})
	if response, err = call(c, "GetResourcesMonitoringConfiguration", response, err); err != nil {
		return err
	}
	c.report.update(func(r *Report) { r.Monitoring = message(response) })
	config := response.GetConfig()
	if config == nil || config.NumDatapoints <= 0 || config.CollectionIntervalSeconds <= 0 {
		err := fatal{fmt.Errorf("monitoring configuration %v", config)}
		c.cancel(err)
		return err
	}
	if response.Memory == nil && len(response.Volumes) == 0 {
		return nil
	}
	interval := time.Duration(config.CollectionIntervalSeconds) * time.Second
	if c.config.MonitorInterval > 0 {
		interval = c.config.MonitorInterval
	}
	points := []*agentpb.PushResourcesMonitoringUsageRequest_Datapoint{}
	for c.sleep(interval) {
		point := &agentpb.PushResourcesMonitoringUsageRequest_Datapoint{CollectedAt: timestamppb.Now()}
		if response.Memory != nil {
			point.Memory = &agentpb.PushResourcesMonitoringUsageRequest_Datapoint_MemoryUsage{Used: 1 << 30, Total: 4 << 30}
		}
		for _, volume := range response.Volumes {
			point.Volumes = append(point.Volumes, &agentpb.PushResourcesMonitoringUsageRequest_Datapoint_VolumeUsage{
				Volume: volume.Path, Used: 1 << 30, Total: 8 << 30,
			})
		}
		points = append(points, point)
		if len(points) > int(config.NumDatapoints) {
			points = points[1:]
		}
		if len(points) == int(config.NumDatapoints) {
			_, err := c.client.PushResourcesMonitoringUsage(
				c.ctx, &agentpb.PushResourcesMonitoringUsageRequest{Datapoints: points})
			_, _ = call(c, "PushResourcesMonitoringUsage", struct{}{}, err)
		}
	}
	return nil
}

func (c *connection) handleManifest() error {
	manifest, err := c.client.GetManifest(c.ctx, &agentpb.GetManifestRequest{})
	if manifest, err = call(c, "GetManifest", manifest, err); err != nil {
		return err
	}
	c.report.step("manifest")
	if err := checkManifest(manifest); err != nil {
		return err
	}
	c.report.update(func(r *Report) { r.Manifest = message(manifest) })
	startup, err := c.client.UpdateStartup(c.ctx, &agentpb.UpdateStartupRequest{Startup: &agentpb.Startup{
		Version:           "v2.31.0",
		ExpandedDirectory: "/home/reference/" + manifest.Directory,
		Subsystems:        []agentpb.Startup_Subsystem{agentpb.Startup_ENVBOX},
	}})
	if _, err = call(c, "UpdateStartup", startup, err); err != nil {
		return err
	}
	c.report.step("startup")

	c.mu.Lock()
	first := !c.started
	c.started = true
	c.manifest = manifest
	c.mu.Unlock()
	if first {
		go c.runStartScripts(manifest)
	}
	return nil
}

// checkManifest refuses what a real agent refuses.
func checkManifest(manifest *agentpb.Manifest) error {
	id, err := uuid.FromBytes(manifest.AgentId)
	if err != nil {
		return fmt.Errorf("agent id: %w", err)
	}
	if id == uuid.Nil {
		return errors.New("nil agentID returned by manifest")
	}
	for _, script := range manifest.Scripts {
		if _, err := uuid.FromBytes(script.LogSourceId); err != nil {
			return fmt.Errorf("script log source id: %w", err)
		}
		if _, err := uuid.FromBytes(script.Id); err != nil {
			return fmt.Errorf("script id: %w", err)
		}
	}
	for _, app := range manifest.Apps {
		if _, err := uuid.FromBytes(app.Id); err != nil {
			return fmt.Errorf("app id: %w", err)
		}
		if app.Healthcheck == nil {
			return fatal{fmt.Errorf("app %q has no healthcheck", app.Slug)}
		}
		if app.Health == agentpb.WorkspaceApp_HEALTH_UNSPECIFIED {
			return fmt.Errorf("app %q has no health", app.Slug)
		}
		if app.SharingLevel == agentpb.WorkspaceApp_SHARING_LEVEL_UNSPECIFIED {
			return fmt.Errorf("app %q has no sharing level", app.Slug)
		}
	}
	if manifest.ParentId != nil {
		if _, err := uuid.FromBytes(manifest.ParentId); err != nil {
			return fmt.Errorf("parent id: %w", err)
		}
	}
	return checkDERPMap(manifest.DerpMap)
}

// checkDERPMap finds the map that a real agent's decoder crashes on.
func checkDERPMap(derpMap *tailnetpb.DERPMap) error {
	if derpMap != nil && derpMap.HomeParams == nil {
		return fatal{errors.New("DERP map without home_params")}
	}
	return nil
}

// runStartScripts is done once in the life of the process.
func (a *Agent) runStartScripts(manifest *agentpb.Manifest) {
	a.setLifecycle(agentpb.Lifecycle_STARTING)
	var source []byte
	for _, script := range manifest.Scripts {
		if script.RunOnStart {
			source = script.LogSourceId
			a.runScript(script)
		}
	}
	if source == nil {
		source = make([]byte, 16)
	}
	for range a.config.ExtraLogLines {
		a.addLog(source, filler(a.config.ExtraLogBytes))
	}
	a.setLifecycle(agentpb.Lifecycle_READY)
}

func filler(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = 'a' + byte(i%26)
	}
	return string(text)
}

// runScript pretends to: its text is its output.
func (a *Agent) runScript(script *agentpb.WorkspaceAgentScript) {
	a.report.update(func(r *Report) { r.ScriptRuns[script.Script]++ })
	start := timestamppb.Now()
	a.addLog(script.LogSourceId, "output of "+script.Script)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timings = append(a.timings, &agentpb.Timing{ScriptId: script.Id, Start: start, End: timestamppb.Now()})
}

// scriptTimings reports how long scripts took; a failure costs the timing alone.
func (c *connection) scriptTimings() error {
	for c.sleep(50 * time.Millisecond) {
		c.mu.Lock()
		timings := c.timings
		c.timings = nil
		c.mu.Unlock()
		for _, timing := range timings {
			_, err := c.client.ScriptCompleted(c.ctx, &agentpb.WorkspaceAgentScriptCompletedRequest{Timing: timing})
			_, _ = call(c, "ScriptCompleted", struct{}{}, err)
		}
	}
	return nil
}

func (a *Agent) setLifecycle(state agentpb.Lifecycle_State) {
	a.mu.Lock()
	a.lifecycle = append(a.lifecycle, &agentpb.Lifecycle{State: state, ChangedAt: timestamppb.Now()})
	a.mu.Unlock()
	a.wake()
}

func (a *Agent) addLog(source []byte, text string) {
	a.mu.Lock()
	a.logs = append(a.logs, logLine{source, text})
	a.mu.Unlock()
}

func (a *Agent) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// reportLifecycle reports every state that the server has not acknowledged, in order.
func (c *connection) reportLifecycle() error {
	for {
		c.mu.Lock()
		var next *agentpb.Lifecycle
		if c.reported < len(c.lifecycle) {
			next = c.lifecycle[c.reported]
		}
		c.mu.Unlock()
		if next == nil {
			select {
			case <-c.changed:
				continue
			case <-c.ctx.Done():
				return nil
			}
		}
		response, err := c.client.UpdateLifecycle(c.ctx, &agentpb.UpdateLifecycleRequest{Lifecycle: next})
		if _, err = call(c, "UpdateLifecycle", response, err); err != nil {
			c.wake()
			return err
		}
		c.mu.Lock()
		c.reported++
		c.mu.Unlock()
		c.report.update(func(r *Report) { r.Lifecycle = append(r.Lifecycle, next.State.String()) })
		if next.State == agentpb.Lifecycle_READY {
			c.report.step("ready")
			c.progress("ready")
			if c.config.StopAfterReady > 0 {
				time.AfterFunc(c.config.StopAfterReady, c.stop)
			}
		}
	}
}
