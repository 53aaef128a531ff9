// Package agent is a reference agent: what a real workspace agent asks and reports, in its order and concurrency, with
// its idea of which failures end a session. It runs no scripts and builds no network; it reports what it was told.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// Pauses between dials, which grow and are never reset (github.com/coder/retry v1.5.1 retrier.go:Wait: no jitter; the
// first attempt waits for nothing, the second for the floor times the rate).
const (
	backoffFloor   = 100 * time.Millisecond
	backoffCeiling = 10 * time.Second
	backoffRate    = math.Phi
)

// flushTimeout bounds what an agent waits for when its stop scripts have ended.
const flushTimeout = 5 * time.Second

// Config says how the agent behaves.
type Config struct {
	Dial transport.Options
	// StopAfterReady ends the agent this long after it is ready; zero leaves it to the context.
	StopAfterReady time.Duration
	// Abrupt ends it without any goodbye.
	Abrupt bool
	// CutEvery cuts the connection this long after each time that the manifest was handled, Cuts times.
	CutEvery time.Duration
	Cuts     int
	// CutFIN cuts with a FIN, as when a process is killed, instead of a reset.
	CutFIN bool
	// FreezeAfter stops all reading and writing this long after it is ready and the manifest was handled, while the TCP
	// connection stays. The agent ends when the server has closed the connection.
	FreezeAfter time.Duration
	// StartScript and StopScript are how long each script takes, with a log line per second.
	StartScript, StopScript time.Duration
	// ExtraLogLines are logged before ready, of ExtraLogBytes each.
	ExtraLogLines, ExtraLogBytes int
	// BannerInterval is two minutes when zero, as in a real agent.
	BannerInterval time.Duration
	// MonitorInterval replaces the configured collection interval when set.
	MonitorInterval time.Duration
	// Use does once, when it is ready, what people and tools make an agent do: see use.
	Use bool
	// Progress gets a line per step.
	Progress io.Writer
	// Took is told of each log line that the server has taken.
	Took func(agent uuid.UUID, output string)
}

// fatal marks an error that would end a real agent's process.
type fatal struct{ error }

// Agent is one run of the reference agent: what outlives its connections.
type Agent struct {
	config Config
	report *Report
	logs   *logQueue
	// minor is that of the API version that is dialed.
	minor int

	mu        sync.Mutex
	lifecycle []*agentpb.Lifecycle
	reported  int
	timings   []*agentpb.Timing
	// timingsUntold counts those that the server has not answered; only an agent that reports them has any.
	timingsUntold int
	manifest      *agentpb.Manifest
	cutsLeft      int
	peersTold     atomic.Int64
	// coordinating is whether a Coordinate stream is open.
	coordinating bool

	lifecycleChanged, timingsChanged chan struct{}
	// manifestKnown is closed when the first manifest was handled.
	manifestKnown chan struct{}
	// ready is closed when the server has acknowledged that the agent is.
	ready chan struct{}
	// stopping is closed when the agent begins to stop, stopped when it may go.
	stopping, stopped  chan struct{}
	stopOnce, stopDone sync.Once
}

// Run runs an agent until it has stopped after the context's end, or has died.
func Run(ctx context.Context, config Config) *Report {
	if config.BannerInterval == 0 {
		config.BannerInterval = 2 * time.Minute
	}
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	a := &Agent{
		config:           config,
		report:           newReport(),
		logs:             newLogQueue(),
		minor:            minorOf(config.Dial.Version),
		cutsLeft:         config.Cuts,
		lifecycleChanged: make(chan struct{}, 1),
		timingsChanged:   make(chan struct{}, 1),
		manifestKnown:    make(chan struct{}),
		ready:            make(chan struct{}),
		stopping:         make(chan struct{}),
		stopped:          make(chan struct{}),
	}
	defer context.AfterFunc(ctx, a.stop)()
	err := a.run()
	a.finish(statusStopped)
	_, dropped := a.logs.state()
	a.report.seal(func(r *Report) {
		var dead fatal
		if errors.As(err, &dead) {
			r.Died, r.Status = dead.Error(), statusDied
		}
		r.LogLinesDropped = dropped
		_, ready := r.Steps["ready"]
		_, closed := r.Steps["frozen_closed"]
		r.OK = ready && (r.Status == statusStopped || r.Status == statusKilled || r.Status == statusFrozen && closed)
	})
	return a.report
}

// minorOf is the minor of an API version; a missing version is 2.0, and one that makes no sense counts as the newest,
// since it is there to be refused.
func minorOf(version string) int {
	if version == "" {
		return 0
	}
	_, text, _ := strings.Cut(version, ".")
	minor, err := strconv.Atoi(text)
	if err != nil {
		return math.MaxInt
	}
	return minor
}

func (a *Agent) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(a.config.Progress, format+"\n", args...)
}

// run dials until the agent has stopped. Also an agent that is stopping dials again: its last reports may still arrive.
func (a *Agent) run() error {
	pause := grow(backoffFloor)
	for {
		err := a.session()
		var dead fatal
		if errors.As(err, &dead) {
			return err
		}
		if isClosed(a.stopped) {
			return nil
		}
		a.report.redial(err, pause)
		a.progress("session ended: %v", err)
		select {
		case <-time.After(pause):
		case <-a.stopped:
			return nil
		}
		pause = grow(pause)
	}
}

// grow is the pause after a pause.
func grow(pause time.Duration) time.Duration {
	return min(time.Duration(float64(pause)*backoffRate), backoffCeiling)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// session is one connection, from dial to end.
func (a *Agent) session() error {
	options := a.config.Dial
	freezer := newFreezer()
	options.OnConn = func(conn net.Conn) net.Conn { return freezer.wrap(conn) }
	session, err := a.dial(options)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	a.report.update(func(r *Report) { r.Connections++ })
	a.report.step("dialed")
	a.progress("dialed")

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// What a real agent stops first ends with graceful, the rest with ctx.
	graceful, stopGraceful := context.WithCancel(ctx)
	defer stopGraceful()
	c := &connection{
		Agent:    a,
		client:   agentpb.NewDRPCAgentClient(session),
		session:  session,
		freezer:  freezer,
		cancel:   cancel,
		ctx:      ctx,
		graceful: graceful,
	}
	go func() {
		select {
		case <-session.Closed():
			cancel(c.whyClosed())
		case <-ctx.Done():
		}
	}()
	go func() {
		select {
		case <-a.stopped:
			if a.config.Abrupt {
				session.Cut(a.config.CutFIN)
			}
			cancel(errors.New("stopped"))
		case <-ctx.Done():
		}
	}()
	go func() {
		select {
		case <-a.stopping:
			// A killed agent has no graceful part: the connection is cut under everything at once.
			if !a.config.Abrupt {
				stopGraceful()
			}
		case <-ctx.Done():
		}
	}()
	c.start()
	<-ctx.Done()
	if freezer.isFrozen() {
		a.holdFrozen(freezer)
	}
	_ = session.Close()
	c.wait.Wait()
	return context.Cause(ctx)
}

// dial is given up when the agent is.
func (a *Agent) dial(options transport.Options) (*transport.Session, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-a.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	return transport.Dial(ctx, options)
}

// frozenPoll is how often a frozen connection is looked at.
const frozenPoll = 20 * time.Millisecond

// holdFrozen waits until the server has closed a frozen connection, whatever the libraries believe meanwhile.
func (a *Agent) holdFrozen(freezer *freezer) {
	defer freezer.end()
	for !isClosed(a.stopping) {
		gone, err := freezer.peerGone()
		if err != nil {
			a.progress("frozen connection: %v", err)
			break
		}
		if gone {
			a.report.step("frozen_closed")
			break
		}
		time.Sleep(frozenPoll)
	}
	a.finish(statusFrozen)
}

// stop begins the agent's shutdown: what a real agent does on SIGTERM.
func (a *Agent) stop() {
	a.stopOnce.Do(func() {
		a.report.step("stopping")
		if a.config.Abrupt {
			a.finish(statusKilled)
			close(a.stopping)
			return
		}
		a.setLifecycle(agentpb.Lifecycle_SHUTTING_DOWN)
		close(a.stopping)
		go a.shutdown()
	})
}

// shutdown runs the stop scripts, reports the end and waits for everything to have left.
func (a *Agent) shutdown() {
	a.mu.Lock()
	manifest, coordinated := a.manifest, a.coordinating
	a.mu.Unlock()
	for _, script := range manifest.GetScripts() {
		if script.GetRunOnStop() {
			a.runScript(script, agentpb.Timing_STOP, a.config.StopScript)
		}
	}
	a.setLifecycle(agentpb.Lifecycle_OFF)

	deadline := time.After(flushTimeout)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		a.mu.Lock()
		flushed := a.reported == len(a.lifecycle) && a.timingsUntold == 0 && !a.coordinating
		a.mu.Unlock()
		if flushed && a.logs.empty() {
			if coordinated && !a.report.disconnectEnded() {
				a.unfinished("Coordinate ended otherwise than by the server's answer to Disconnect")
			}
			a.finish(statusStopped)
			return
		}
		select {
		case <-poll.C:
		case <-a.stopped:
			return
		case <-deadline:
			a.mu.Lock()
			left := fmt.Sprintf("%d states, %d script timings, coordinating: %t, logs: %t", len(a.lifecycle)-a.reported,
				a.timingsUntold, a.coordinating, !a.logs.empty())
			a.mu.Unlock()
			a.unfinished("gave up waiting for the last reports: " + left)
			return
		}
	}
}

// unfinished ends an agent that could not say or hear what it wanted.
func (a *Agent) unfinished(why string) {
	a.progress("%s", why)
	a.report.update(func(r *Report) { r.Unfinished = why })
	a.finish(statusUnfinished)
}

// finish ends the agent, once; the first status is what became of it.
func (a *Agent) finish(status string) {
	a.stopDone.Do(func() {
		a.report.step("stopped")
		a.report.update(func(r *Report) { r.Status = status })
		close(a.stopped)
	})
}

// sourceOf is a script's log source, checked when its manifest came.
func sourceOf(script *agentpb.WorkspaceAgentScript) uuid.UUID {
	id, _ := uuid.FromBytes(script.GetLogSourceId())
	return id
}
