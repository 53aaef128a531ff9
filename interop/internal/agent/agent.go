// Package agent is a reference agent: what a real workspace agent asks and reports, in its order and concurrency, with
// its idea of which failures end a session. It runs no scripts and builds no network; it reports what it was told.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// Pauses between dials, which grow and are never reset.
const (
	backoffFloor   = 100 * time.Millisecond
	backoffCeiling = 10 * time.Second
	backoffGrowth  = 1.5
)

// flushTimeout bounds what an agent waits for when it stops.
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
	// FreezeAfter stops all reading and writing this long after ready, while the TCP connection stays.
	FreezeAfter time.Duration
	// StopScript is how long the stop scripts run, with a log line per second.
	StopScript time.Duration
	// ExtraLogLines are sent after start, of ExtraLogBytes each.
	ExtraLogLines, ExtraLogBytes int
	// BannerInterval is two minutes in a real agent.
	BannerInterval time.Duration
	// MonitorInterval replaces the configured collection interval when set.
	MonitorInterval time.Duration
	// Progress gets a line per step.
	Progress io.Writer
}

// fatal marks an error that would end a real agent's process.
type fatal struct{ error }

// Agent is one run of the reference agent.
type Agent struct {
	config Config
	report *Report

	mu        sync.Mutex
	lifecycle []*agentpb.Lifecycle
	reported  int
	logs      []logLine
	timings   []*agentpb.Timing
	logsDone  bool
	started   bool
	manifest  *agentpb.Manifest
	cutsLeft  int

	changed chan struct{}
	// stopping is closed when the agent begins to stop, stopped when it may go.
	stopping, stopped chan struct{}
	stopOnce          sync.Once
	// coordinateEnded is closed when the server has ended the Coordinate stream after Disconnect.
	coordinateEnded chan struct{}
	endOnce         sync.Once
}

type logLine struct {
	source []byte
	text   string
}

// Run runs an agent until it has stopped or the context ends.
func Run(ctx context.Context, config Config) *Report {
	if config.BannerInterval == 0 {
		config.BannerInterval = 2 * time.Minute
	}
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	a := &Agent{
		config:          config,
		report:          newReport(),
		cutsLeft:        config.Cuts,
		changed:         make(chan struct{}, 1),
		stopping:        make(chan struct{}),
		stopped:         make(chan struct{}),
		coordinateEnded: make(chan struct{}),
	}
	hard, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
			a.stop()
		case <-hard.Done():
		}
	}()
	err := a.run(hard)
	a.report.update(func(r *Report) {
		var dead fatal
		if errors.As(err, &dead) {
			r.Died = dead.Error()
		}
		_, ready := r.Steps["ready"]
		r.OK = ready && r.Died == ""
	})
	return a.report
}

func (a *Agent) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(a.config.Progress, format+"\n", args...)
}

// run dials until the agent has stopped.
func (a *Agent) run(ctx context.Context) error {
	pause := backoffFloor
	for {
		err := a.session(ctx)
		var dead fatal
		if errors.As(err, &dead) {
			return err
		}
		select {
		case <-a.stopped:
			return nil
		default:
		}
		if a.config.Abrupt && a.isStopping() {
			return nil
		}
		a.report.update(func(r *Report) {
			r.Redials = append(r.Redials, Redial{AtMS: r.now(), Error: fmt.Sprint(err), PauseMS: pause.Milliseconds()})
		})
		a.progress("session ended: %v", err)
		select {
		case <-time.After(pause):
		case <-a.stopped:
			return nil
		case <-a.stopping:
			if a.config.Abrupt {
				return nil
			}
			// What is queued may still find a session, but not for long.
			time.AfterFunc(flushTimeout, a.finish)
		}
		pause = min(time.Duration(float64(pause)*backoffGrowth), backoffCeiling)
	}
}

func (a *Agent) isStopping() bool {
	select {
	case <-a.stopping:
		return true
	default:
		return false
	}
}

// session is one connection, from dial to end.
func (a *Agent) session(ctx context.Context) error {
	options := a.config.Dial
	freezer := &freezer{}
	options.OnConn = func(conn net.Conn) net.Conn { return &frozenConn{Conn: conn, freezer: freezer} }
	session, err := transport.Dial(ctx, options)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	a.report.update(func(r *Report) { r.Connections++ })
	a.report.step("dialed")
	defer session.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &connection{
		Agent:   a,
		client:  agentpb.NewDRPCAgentClient(session),
		session: session,
		freezer: freezer,
		cancel:  cancel,
		ctx:     ctx,
	}
	go func() {
		select {
		case <-session.Closed():
			cancel(errors.New("session closed"))
		case <-ctx.Done():
		}
	}()
	go func() {
		select {
		case <-a.stopping:
			if a.config.Abrupt {
				cancel(errors.New("killed"))
				session.Cut()
			}
		case <-ctx.Done():
		}
	}()
	c.start()
	select {
	case <-ctx.Done():
	case <-a.stopped:
		cancel(errors.New("stopped"))
	}
	_ = session.Close()
	c.wait.Wait()
	return context.Cause(ctx)
}

// stop begins the agent's shutdown: what a real agent does on SIGTERM.
func (a *Agent) stop() {
	a.stopOnce.Do(func() {
		a.report.step("stopping")
		if a.config.Abrupt {
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
	manifest := a.manifest
	a.mu.Unlock()
	for _, script := range manifest.GetScripts() {
		if !script.GetRunOnStop() {
			continue
		}
		a.runScript(script)
		for seconds := time.Duration(0); seconds < a.config.StopScript; seconds += time.Second {
			a.addLog(script.GetLogSourceId(), fmt.Sprintf("stopping since %s", seconds))
			time.Sleep(time.Second)
		}
	}
	a.setLifecycle(agentpb.Lifecycle_OFF)

	deadline := time.After(flushTimeout)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-deadline:
			a.progress("gave up waiting for the last reports")
			a.finish()
			return
		case <-poll.C:
		}
		select {
		case <-a.coordinateEnded:
		default:
			continue
		}
		a.mu.Lock()
		flushed := a.reported == len(a.lifecycle) && (len(a.logs) == 0 || a.logsDone)
		a.mu.Unlock()
		if flushed {
			a.finish()
			return
		}
	}
}

func (a *Agent) finish() {
	a.endOnce.Do(func() {
		a.report.step("stopped")
		close(a.stopped)
	})
}
