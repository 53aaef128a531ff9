package agent

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/proto/agentpb"
)

// Limits of a real agent's log sender.
const (
	// maxLogBatch bounds one request, in bytes.
	maxLogBatch = 1 << 20
	// maxLogQueue bounds what waits to be sent, in bytes; what does not fit is dropped.
	maxLogQueue = 1 << 20
	// logLineCost is what a line counts beside its text.
	logLineCost = 21
	// logFlushInterval is the least time between two requests for one source, unless its script has ended.
	logFlushInterval = time.Second
)

type logLine struct {
	at   time.Time
	text string
}

type sourceLogs struct {
	id      uuid.UUID
	lines   []logLine
	flushed time.Time
	// hurry sends what is queued without waiting for the interval.
	hurry bool
}

// logQueue holds lines until the server has taken them, over all connections of the agent.
type logQueue struct {
	mu       sync.Mutex
	sources  []*sourceLogs
	bytes    int
	dropped  int
	exceeded bool
	changed  chan struct{}
}

func newLogQueue() *logQueue { return &logQueue{changed: make(chan struct{}, 1)} }

func (q *logQueue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// fits is whether a line has room; after the limit of the server every line has, since it goes nowhere.
func (q *logQueue) fits(text string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.exceeded || q.bytes+len(text)+logLineCost <= maxLogQueue
}

// add queues a line, or drops it where there is no room.
func (q *logQueue) add(source uuid.UUID, text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.exceeded {
		return
	}
	if q.bytes+len(text)+logLineCost > maxLogQueue {
		q.dropped++
		return
	}
	q.bytes += len(text) + logLineCost
	logs := q.source(source)
	logs.lines = append(logs.lines, logLine{time.Now(), text})
	q.wake()
}

// source is called with the lock held.
func (q *logQueue) source(id uuid.UUID) *sourceLogs {
	for _, logs := range q.sources {
		if logs.id == id {
			return logs
		}
	}
	logs := &sourceLogs{id: id}
	q.sources = append(q.sources, logs)
	return logs
}

// flush sends what a source has queued without waiting: its script has ended.
func (q *logQueue) flush(id uuid.UUID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.source(id).hurry = true
	q.wake()
}

func (q *logQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.exceeded || q.bytes == 0
}

// next is the longest batch of the first source that may send now; without one it says how long to wait at most.
func (q *logQueue) next(now time.Time) (*sourceLogs, []logLine, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := logFlushInterval
	for _, logs := range q.sources {
		if len(logs.lines) == 0 {
			logs.hurry = false
			continue
		}
		if due := logs.flushed.Add(logFlushInterval); !logs.hurry && now.Before(due) {
			wait = min(wait, due.Sub(now))
			continue
		}
		size, count := 0, 0
		for _, line := range logs.lines {
			if size += len(line.text) + logLineCost; size > maxLogBatch {
				break
			}
			count++
		}
		return logs, logs.lines[:count:count], 0
	}
	return nil, nil, wait
}

// sent forgets a batch that the server has taken, or everything and for good when it will take no more.
func (q *logQueue) sent(logs *sourceLogs, count int, now time.Time, exceeded bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if exceeded {
		q.exceeded, q.sources, q.bytes = true, nil, 0
		return
	}
	for _, line := range logs.lines[:count] {
		q.bytes -= len(line.text) + logLineCost
	}
	logs.lines, logs.flushed = logs.lines[count:], now
}

// sendLogs sends what is queued until the session or the server's patience ends.
func (c *connection) sendLogs(ctx context.Context) error {
	for {
		if exceeded, _ := c.logs.state(); exceeded {
			return nil
		}
		source, lines, wait := c.logs.next(time.Now())
		if len(lines) == 0 {
			select {
			case <-c.logs.changed:
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		request := &agentpb.BatchCreateLogsRequest{LogSourceId: source.id[:]}
		for _, line := range lines {
			request.Logs = append(request.Logs, &agentpb.Log{
				CreatedAt: timestamppb.New(line.at), Output: line.text, Level: agentpb.Log_INFO,
			})
		}
		response, err := c.client.BatchCreateLogs(ctx, request)
		if response, err = call(ctx, c, "BatchCreateLogs", response, err); err != nil {
			return err
		}
		c.logs.sent(source, len(lines), time.Now(), response.LogLimitExceeded)
		if c.config.Took != nil && !response.LogLimitExceeded {
			id := c.agentID()
			for _, line := range request.Logs {
				c.config.Took(id, line.Output)
			}
		}
		c.report.update(func(r *Report) {
			r.LogLimitExceeded = response.LogLimitExceeded
			if !response.LogLimitExceeded {
				r.LogLines += len(lines)
			}
		})
	}
}

// agentID is what the manifest says, without which there is nothing to log.
func (a *Agent) agentID() uuid.UUID {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, _ := uuid.FromBytes(a.manifest.GetAgentId())
	return id
}

// state is whether the server has said that its limit is reached, and how many lines found no room.
func (q *logQueue) state() (exceeded bool, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.exceeded, q.dropped
}
