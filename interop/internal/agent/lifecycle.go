package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// setLifecycle queues a state; going back is refused, so that an agent that is stopping never says that it is ready.
func (a *Agent) setLifecycle(state agentpb.Lifecycle_State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.lifecycle); n > 0 && a.lifecycle[n-1].State >= state {
		return
	}
	a.lifecycle = append(a.lifecycle, &agentpb.Lifecycle{State: state, ChangedAt: timestamppb.Now()})
	wake(a.lifecycleChanged)
}

func wake(changed chan struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}

// reportLifecycle reports every state that the server has not acknowledged, in order.
func (c *connection) reportLifecycle(ctx context.Context) error {
	for {
		c.mu.Lock()
		var next *agentpb.Lifecycle
		if c.reported < len(c.lifecycle) {
			next = c.lifecycle[c.reported]
		}
		c.mu.Unlock()
		if next == nil {
			select {
			case <-c.lifecycleChanged:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		response, err := c.client.UpdateLifecycle(ctx, &agentpb.UpdateLifecycleRequest{Lifecycle: next})
		if _, err = call(ctx, c, "UpdateLifecycle", response, err); err != nil {
			return err
		}
		c.report.update(func(r *Report) { r.Lifecycle = append(r.Lifecycle, next.State.String()) })
		c.report.step(strings.ToLower(next.State.String()))
		c.progress("lifecycle %s", next.State)
		c.mu.Lock()
		c.reported++
		c.mu.Unlock()
		if next.State == agentpb.Lifecycle_READY {
			close(c.ready)
			if c.config.StopAfterReady > 0 {
				time.AfterFunc(c.config.StopAfterReady, c.stop)
			}
		}
	}
}

// runStartScripts is done once in the life of the process.
func (a *Agent) runStartScripts(manifest *agentpb.Manifest) {
	a.setLifecycle(agentpb.Lifecycle_STARTING)
	var source uuid.UUID
	for _, script := range manifest.Scripts {
		if script.RunOnStart {
			source = sourceOf(script)
			a.runScript(script, agentpb.Timing_START, a.config.StartScript)
		}
	}
	text := filler(a.config.ExtraLogBytes)
	for range a.config.ExtraLogLines {
		// A flood would be dropped; this one waits for room, so that all of it meets the server.
		for !a.logs.fits(text) {
			if !a.sleep(5 * time.Millisecond) {
				return
			}
		}
		a.logs.add(source, text)
	}
	a.logs.flush(source)
	a.setLifecycle(agentpb.Lifecycle_READY)
}

func filler(n int) string {
	return strings.Repeat("abcdefghijklmnopqrstuvwxyz", n/26+1)[:n]
}

// sleep waits, or ends with the agent.
func (a *Agent) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-a.stopped:
		return false
	}
}

// runScript pretends to run a script, which prints its own text and then a line per second.
func (a *Agent) runScript(script *agentpb.WorkspaceAgentScript, stage agentpb.Timing_Stage, lasts time.Duration) {
	a.report.update(func(r *Report) { r.ScriptRuns[script.Script]++ })
	start := timestamppb.Now()
	source := sourceOf(script)
	a.logs.add(source, "output of "+script.Script)
	for second := time.Second; second <= lasts; second += time.Second {
		if !a.sleep(time.Second) {
			return
		}
		a.logs.add(source, fmt.Sprintf("running since %s", second))
	}
	if rest := lasts % time.Second; rest > 0 && !a.sleep(rest) {
		return
	}
	a.logs.flush(source)
	if a.minor < minorScriptCompleted {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timings = append(a.timings, &agentpb.Timing{
		ScriptId: script.Id, Start: start, End: timestamppb.Now(), Stage: stage, Status: agentpb.Timing_OK,
	})
	a.timingsUntold++
	wake(a.timingsChanged)
}

// scriptTimings reports how long scripts took; a failure costs the timing alone.
func (c *connection) scriptTimings(ctx context.Context) error {
	for {
		c.mu.Lock()
		timings := c.timings
		c.timings = nil
		c.mu.Unlock()
		for _, timing := range timings {
			response, err := c.client.ScriptCompleted(ctx, &agentpb.WorkspaceAgentScriptCompletedRequest{Timing: timing})
			_, _ = call(ctx, c, "ScriptCompleted", response, err)
			c.mu.Lock()
			c.timingsUntold--
			c.mu.Unlock()
		}
		select {
		case <-c.timingsChanged:
		case <-ctx.Done():
			return nil
		}
	}
}
