package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/internal/agent"
)

// How long one run of an agent lasts, and one of its connections: runs end as often by themselves as they are killed.
const (
	minLife, maxLife = 20 * time.Second, 3 * time.Minute
	minCut, maxCut   = 5 * time.Second, 90 * time.Second
)

// maxSoakErrors bounds the error texts of a soak.
const maxSoakErrors = 50

// soakResult sums up the runs of all agents.
type soakResult struct {
	Agents      int `json:"agents"`
	Runs        int `json:"runs"`
	Connections int `json:"connections"`
	Calls       int `json:"calls"`
	Failed      int `json:"failed"`
	Aborted     int `json:"aborted"`
	LogLines    int `json:"log_lines"`
	// Answered counts calls that the server has answered without an error, by method.
	Answered map[string]int `json:"answered"`
	Statuses map[string]int `json:"statuses"`
	// FailedBy counts what the server failed, by method.
	FailedBy map[string]int `json:"failed_by"`
	// Errors are those of calls, of ends that were not the agents' own doing, and of deaths.
	Errors []string `json:"errors"`
	// EndedAt are the Unix times, in milliseconds, of sessions that ended before their agent did, and of failed dials.
	EndedAt []int64 `json:"ended_at_ms"`
}

// takenLines notes in a file what agents were told is stored: a line for each of theirs, the agent's id before it.
type takenLines struct {
	mu   sync.Mutex
	file *os.File
	text *bufio.Writer
}

func createTakenLines(path string) (*takenLines, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &takenLines{file: file, text: bufio.NewWriter(file)}, nil
}

func (t *takenLines) add(id uuid.UUID, output string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// What cannot be written is told when the file is closed.
	_, _ = fmt.Fprintln(t.text, id, output)
}

func (t *takenLines) close() error {
	return errors.Join(t.text.Flush(), t.file.Close())
}

// runSoak lets agents come and go: each works as a real one does, is cut now and then, stops or is killed, and starts
// again, until the time is over and all of them stop.
func runSoak(ctx context.Context, flags *flag.FlagSet, args []string) (any, bool, error) {
	options := dialFlags(flags)
	tokens := flags.String("tokens", "", "file with an agent's token on each line")
	duration := flags.Duration("duration", 3*time.Minute, "how long agents come and go")
	seed := flags.Uint64("seed", 1, "of the random choices")
	calm := flags.Bool("calm", false, "nobody is cut or ends before the time is over")
	scripts := flags.Duration("scripts", 0, "how long start scripts take, a log line a second; 0 is a few seconds")
	taken := flags.String("taken", "", "file for the log lines that the server has taken, each with its agent's id")
	if err := parse(flags, args); err != nil {
		return nil, false, err
	}
	list, err := readLines(*tokens)
	if err != nil {
		return nil, false, err
	}
	var lines *takenLines
	if *taken != "" {
		if lines, err = createTakenLines(*taken); err != nil {
			return nil, false, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, *duration)
	defer cancel()
	result := &soakResult{Agents: len(list), Statuses: map[string]int{}, Answered: map[string]int{}, FailedBy: map[string]int{}, Errors: []string{}, EndedAt: []int64{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, token := range list {
		random := rand.New(rand.NewPCG(*seed, uint64(i)))
		between := func(low, high time.Duration) time.Duration {
			return low + time.Duration(random.Int64N(int64(high-low)))
		}
		config := agent.Config{Dial: *options}
		config.Dial.Token = token
		if lines != nil {
			config.Took = lines.add
		}
		wait.Add(1)
		go func() {
			defer wait.Done()
			// Not all at once.
			if !pause(ctx, between(0, 10*time.Second)) {
				return
			}
			for ctx.Err() == nil {
				config.Abrupt = random.IntN(2) == 0
				config.CutFIN = random.IntN(2) == 0
				config.CutEvery, config.Cuts = between(minCut, maxCut), random.IntN(4)
				config.Use = random.IntN(2) == 0
				config.StartScript = time.Duration(random.IntN(4)) * time.Second
				config.ExtraLogLines, config.ExtraLogBytes = random.IntN(20), 80
				config.BannerInterval = 20 * time.Second
				lifetime := between(minLife, maxLife)
				if *scripts > 0 {
					config.StartScript = *scripts
				}
				if *calm {
					config.Abrupt, config.Cuts, config.BannerInterval, lifetime = false, 0, 0, *duration
				}
				life, end := context.WithTimeout(ctx, lifetime)
				report := agent.Run(life, config)
				end()
				mu.Lock()
				result.add(report)
				mu.Unlock()
				pause(ctx, between(0, 5*time.Second))
			}
		}()
	}
	wait.Wait()
	if lines != nil {
		if err := lines.close(); err != nil {
			return nil, false, err
		}
	}
	return result, result.Failed == 0 && len(result.Errors) == 0, nil
}

// add takes the report of one run.
func (r *soakResult) add(report *agent.Report) {
	r.Runs++
	r.Connections += report.Connections
	r.LogLines += report.LogLines
	r.Statuses[report.Status]++
	for method, rpc := range report.RPCs {
		r.Calls += rpc.Calls
		r.Failed += rpc.Failed
		r.Aborted += rpc.Aborted
		if rpc.Failed > 0 {
			r.FailedBy[method] += rpc.Failed
		}
		r.Answered[method] += rpc.Calls - rpc.Failed - rpc.Aborted
		for _, text := range rpc.Errors {
			// The one of an earlier run is still there, for an agent that was killed does not delete it.
			if strings.Contains(text, "already exists in this workspace build") {
				r.Failed--
				continue
			}
			r.note("%s: %s", method, text)
		}
	}
	r.EndedAt = append(r.EndedAt, report.RedialedAt()...)
	for _, redial := range report.Redials {
		if redial.Error != "cut" {
			r.note("session ended: %s", redial.Error)
		}
	}
	if !report.OK && report.Steps["ready"] > 0 {
		r.note("ended %s %s", report.Status, cmp.Or(report.Died, report.Unfinished))
	}
}

func (r *soakResult) note(format string, args ...any) {
	if len(r.Errors) < maxSoakErrors {
		r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
	}
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func readLines(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, errors.New("no tokens")
	}
	return lines, nil
}
