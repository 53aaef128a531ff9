package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// API minors that brought the calls which older agents do not make.
const (
	minorAnnouncementBanners = 1
	minorScriptCompleted     = 3
	minorResourcesMonitoring = 4
)

// connection is one session and its routines. An error of a fatal routine ends all of them.
type connection struct {
	*Agent
	// ctx is the session's, graceful ends before it when the agent stops.
	ctx, graceful context.Context
	cancel        context.CancelCauseFunc
	client        agentpb.DRPCAgentClient
	session       *transport.Session
	freezer       *freezer
	wait          sync.WaitGroup
	// cut is whether the agent itself has cut the connection.
	cut atomic.Bool
}

// whyClosed is why the session was found closed.
func (c *connection) whyClosed() error {
	if c.cut.Load() {
		return errors.New("cut")
	}
	end := c.session.End()
	if end == nil {
		return errors.New("session closed")
	}
	return fmt.Errorf("session closed: %w", end)
}

// stops runs what a stopping agent ends first, remains what it keeps to the last. Their errors end the session, but for
// those that come of the stopping.
func (c *connection) stops(name string, f func(context.Context) error) {
	c.routine(c.graceful, name, f)
}
func (c *connection) remains(name string, f func(context.Context) error) { c.routine(c.ctx, name, f) }

func (c *connection) routine(ctx context.Context, name string, f func(context.Context) error) {
	c.wait.Add(1)
	go func() {
		defer c.wait.Done()
		if ctx.Err() != nil {
			return
		}
		err := f(ctx)
		var dead fatal
		if err != nil && (ctx.Err() == nil || errors.As(err, &dead)) {
			c.fail(name, err, dead)
		}
	}()
}

// fail ends the session by the error of a routine. What a routine meets when the session is gone is not its own error.
func (c *connection) fail(name string, err error, dead fatal) {
	if dead.error == nil && (c.cut.Load() || c.session.Mux.IsClosed()) {
		c.cancel(c.whyClosed())
		return
	}
	c.cancel(fmt.Errorf("%s: %w", name, err))
}

// start begins everything at once; what needs the manifest follows it.
func (c *connection) start() {
	c.remains("send logs", c.sendLogs)
	c.remains("report lifecycle", c.reportLifecycle)
	if c.minor >= minorScriptCompleted {
		c.remains("script timings", c.scriptTimings)
	}
	if isClosed(c.stopping) {
		return
	}
	c.stops("init banners", c.banners)
	if c.minor >= minorResourcesMonitoring {
		c.stops("resources monitor", c.monitorResources)
	}
	c.stops("report metadata", c.reportMetadata)
	c.stops("banner loop", c.bannerLoop)
	c.stops("handle manifest", func(ctx context.Context) error {
		manifest, err := c.handleManifest(ctx)
		if err != nil {
			return err
		}
		c.stops("app health", func(ctx context.Context) error { return c.appHealth(ctx, manifest) })
		c.coordination(manifest)
		c.stops("derp map", c.derpMaps)
		c.stops("stats", c.stats)
		if c.config.Use {
			c.stops("use", c.use)
		}
		c.plan()
		return nil
	})
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
		c.stops("cut", func(ctx context.Context) error {
			if sleep(ctx, c.config.CutEvery) && c.beginCut() {
				c.session.Cut(c.config.CutFIN)
			}
			return nil
		})
	}
	if c.config.FreezeAfter > 0 {
		c.stops("freeze", func(ctx context.Context) error {
			select {
			case <-c.ready:
			case <-ctx.Done():
				return nil
			}
			if sleep(ctx, c.config.FreezeAfter) && c.freezer.freeze() {
				c.report.step("frozen")
				c.report.update(func(r *Report) { r.Frozen = true })
				c.progress("frozen")
				c.cancel(errors.New("frozen"))
			}
			return nil
		})
	}
}

// beginCut is false once the agent stops: whoever cuts its own goodbye cannot say how the server took it.
func (c *connection) beginCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.stopping) {
		return false
	}
	c.progress("cut")
	c.cut.Store(true)
	c.coordinating = false
	return true
}

// sleep waits, or ends with the context.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call counts a call; an error that is only the end of its session or of the agent is not the method's.
func call[T any](ctx context.Context, c *connection, method string, result T, err error) (T, error) {
	c.report.call(method, err, ctx.Err() != nil || c.session.Mux.IsClosed())
	return result, err
}

func (c *connection) handleManifest(ctx context.Context) (*agentpb.Manifest, error) {
	manifest, err := c.client.GetManifest(ctx, &agentpb.GetManifestRequest{})
	if manifest, err = call(ctx, c, "GetManifest", manifest, err); err != nil {
		return nil, err
	}
	c.report.step("manifest")
	c.report.update(func(r *Report) { r.Manifest = message(manifest) })
	if err := checkManifest(manifest); err != nil {
		return nil, err
	}
	startup, err := c.client.UpdateStartup(ctx, &agentpb.UpdateStartupRequest{Startup: &agentpb.Startup{
		Version:           "v2.31.0",
		ExpandedDirectory: expandDirectory(manifest.Directory),
		Subsystems:        []agentpb.Startup_Subsystem{agentpb.Startup_ENVBOX},
	}})
	if _, err = call(ctx, c, "UpdateStartup", startup, err); err != nil {
		return nil, err
	}
	c.report.step("startup")

	c.mu.Lock()
	first := c.manifest == nil
	c.manifest = manifest
	c.mu.Unlock()
	if first {
		close(c.manifestKnown)
		go c.runStartScripts(manifest)
	}
	return manifest, nil
}
