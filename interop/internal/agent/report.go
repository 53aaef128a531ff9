package agent

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// How a run ended.
const (
	// statusStopped: everything was reported, the server ended Coordinate, the session was closed.
	statusStopped = "stopped"
	// statusUnfinished: something was still unsent or unanswered when the time for it was over.
	statusUnfinished = "unfinished"
	// statusKilled: ended without goodbye, as asked for.
	statusKilled = "killed"
	// statusFrozen: the run ended frozen, by the server's close or by its own time.
	statusFrozen = "frozen"
	// statusDied: a real agent's process would have ended.
	statusDied = "died"
)

// Report says what an agent did and what it got. Times are milliseconds since its start.
type Report struct {
	mu    sync.Mutex
	start time.Time
	// sealed reports stay as they are.
	sealed bool

	// OK is whether the agent became ready and ended as it was told to.
	OK bool `json:"ok"`
	// Status is how it ended: stopped, unfinished, killed, frozen or died.
	Status string `json:"status"`
	// Died is what would have ended a real agent's process.
	Died string `json:"died,omitempty"`
	// Unfinished is what was left when its status became that.
	Unfinished string `json:"unfinished,omitempty"`
	// Frozen is whether it was frozen; the steps frozen and frozen_closed say when, and when the server closed.
	Frozen bool `json:"frozen"`
	// Connections counts sessions that were dialed.
	Connections int `json:"connections"`
	// Redials are the ends of sessions and failed dials, with the pause that followed.
	Redials []Redial `json:"redials"`
	// Steps are the times of named steps, the last one of each name.
	Steps map[string]int64 `json:"steps_ms"`
	// RPCs counts calls by method.
	RPCs map[string]*RPC `json:"rpcs"`
	// Lifecycle holds the states that the server has acknowledged, in order.
	Lifecycle []string `json:"lifecycle"`
	// ScriptRuns counts runs of scripts by their text.
	ScriptRuns map[string]int `json:"script_runs"`
	// Manifest is the last one.
	Manifest json.RawMessage `json:"manifest,omitempty"`
	// DERPMaps counts maps over all streams, DERPMap is the last one.
	DERPMaps int             `json:"derp_maps"`
	DERPMap  json.RawMessage `json:"derp_map,omitempty"`
	// CoordinateResponses counts responses, PeerUpdates what was in them by kind; CoordinateErrors are their errors.
	CoordinateResponses int            `json:"coordinate_responses"`
	PeerUpdates         map[string]int `json:"peer_updates"`
	// PeerIDs are the peers that there were nodes of, in order of their first.
	PeerIDs          []string `json:"peer_ids"`
	CoordinateErrors []string `json:"coordinate_errors"`
	// DisconnectEnded is whether the server ended Coordinate after Disconnect.
	DisconnectEnded bool `json:"disconnect_ended"`
	// StatsAt are the times of answered UpdateStats calls, StatsInterval the last interval in milliseconds.
	StatsAt       []int64 `json:"stats_at_ms"`
	StatsInterval int64   `json:"stats_interval_ms"`
	// LogLines counts lines that the server took, LogLinesDropped those that found the agent's queue full.
	LogLines        int `json:"log_lines"`
	LogLinesDropped int `json:"log_lines_dropped"`
	// LogLimitExceeded is the server's last word on the limit.
	LogLimitExceeded bool `json:"log_limit_exceeded"`
	// MetadataValues counts the values that the server took, by key.
	MetadataValues map[string]int `json:"metadata_values"`
	// Banners is the last answer.
	Banners json.RawMessage `json:"banners,omitempty"`
	// Monitoring is the last answer.
	Monitoring json.RawMessage `json:"monitoring,omitempty"`
	// SubAgents are the names that the server listed at last, SubAgentErrors what it said of the first one's apps,
	// SubAgentManifest what that one got over a session of its own.
	SubAgents        []string        `json:"sub_agents"`
	SubAgentErrors   json.RawMessage `json:"sub_agent_errors,omitempty"`
	SubAgentManifest json.RawMessage `json:"sub_agent_manifest,omitempty"`
}

// RedialedAt are the Unix times, in milliseconds, of the ends in Redials.
func (r *Report) RedialedAt() []int64 {
	times := make([]int64, 0, len(r.Redials))
	for _, redial := range r.Redials {
		times = append(times, r.start.UnixMilli()+redial.AtMS)
	}
	return times
}

// Held is whether what was asked for held.
func (r *Report) Held() bool { return r.OK }

// Redial is the end of a session or a failed dial.
type Redial struct {
	AtMS    int64  `json:"at_ms"`
	Error   string `json:"error"`
	PauseMS int64  `json:"pause_ms"`
}

// RPC counts the calls of one method.
type RPC struct {
	Calls int `json:"calls"`
	// Failed counts calls and streams that the server failed, Aborted those that ended with their session.
	Failed  int `json:"failed"`
	Aborted int `json:"aborted"`
	// Errors are the texts of the first failures.
	Errors []string `json:"errors"`
}

const (
	// maxErrors bounds the error texts that are kept per method: a redialing agent meets the same one each time.
	maxErrors = 20
	// maxKept bounds every other list of a report: more than a run of half an hour needs.
	maxKept = 10_000
)

func newReport() *Report {
	return &Report{
		start:            time.Now(),
		Redials:          []Redial{},
		Steps:            map[string]int64{},
		RPCs:             map[string]*RPC{},
		Lifecycle:        []string{},
		ScriptRuns:       map[string]int{},
		PeerUpdates:      map[string]int{},
		PeerIDs:          []string{},
		CoordinateErrors: []string{},
		StatsAt:          []int64{},
		MetadataValues:   map[string]int{},
		SubAgents:        []string{},
	}
}

func (r *Report) update(change func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.sealed {
		change(r)
	}
}

// seal makes the last change: what still ends afterwards is not reported, and the report may be read without a lock.
func (r *Report) seal(change func(*Report)) {
	r.update(func(r *Report) {
		change(r)
		r.sealed = true
	})
}

func (r *Report) disconnectEnded() (ended bool) {
	r.update(func(r *Report) { ended = r.DisconnectEnded })
	return ended
}

func (r *Report) now() int64 { return time.Since(r.start).Milliseconds() }

func (r *Report) step(name string) {
	r.update(func(r *Report) { r.Steps[name] = r.now() })
}

func (r *Report) redial(err error, pause time.Duration) {
	r.update(func(r *Report) {
		if len(r.Redials) < maxKept {
			r.Redials = append(r.Redials, Redial{AtMS: r.now(), Error: fmt.Sprint(err), PauseMS: pause.Milliseconds()})
		}
	})
}

// call counts a call and how it went.
func (r *Report) call(method string, err error, aborted bool) {
	r.update(func(r *Report) {
		rpc := r.RPCs[method]
		if rpc == nil {
			rpc = &RPC{Errors: []string{}}
			r.RPCs[method] = rpc
		}
		rpc.Calls++
		rpc.count(err, aborted)
	})
}

// streamEnd counts the end of a stream, whose begin was counted as a call.
func (r *Report) streamEnd(method string, err error, aborted bool) {
	r.update(func(r *Report) { r.RPCs[method].count(err, aborted) })
}

func (c *RPC) count(err error, aborted bool) {
	switch {
	case err == nil:
	case aborted:
		c.Aborted++
	default:
		c.Failed++
		if len(c.Errors) < maxErrors {
			c.Errors = append(c.Errors, err.Error())
		}
	}
}

func message(m proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil
	}
	return text
}
