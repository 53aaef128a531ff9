package agent

import (
	"encoding/json"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Report says what an agent did and what it got. Times are milliseconds since its start.
type Report struct {
	mu    sync.Mutex
	start time.Time

	// OK is whether the agent reached ready and ended as it was told to.
	OK bool `json:"ok"`
	// Died is what would have ended a real agent's process.
	Died string `json:"died,omitempty"`
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
	// CoordinateResponses counts responses; CoordinateErrors are their error texts.
	CoordinateResponses int      `json:"coordinate_responses"`
	CoordinateErrors    []string `json:"coordinate_errors"`
	// DisconnectEnded is whether the server ended Coordinate after Disconnect.
	DisconnectEnded bool `json:"disconnect_ended"`
	// StatsAt are the times of UpdateStats calls, StatsInterval the last interval in milliseconds.
	StatsAt       []int64 `json:"stats_at_ms"`
	StatsInterval int64   `json:"stats_interval_ms"`
	// LogLines counts lines that the server took; LogLimitExceeded is its last word on the limit.
	LogLines         int  `json:"log_lines"`
	LogLimitExceeded bool `json:"log_limit_exceeded"`
	// MetadataValues counts values that the server took.
	MetadataValues int `json:"metadata_values"`
	// Banners is the last answer.
	Banners json.RawMessage `json:"banners,omitempty"`
	// Monitoring is the last answer.
	Monitoring json.RawMessage `json:"monitoring,omitempty"`
}

// Redial is the end of a session or a failed dial.
type Redial struct {
	AtMS    int64  `json:"at_ms"`
	Error   string `json:"error"`
	PauseMS int64  `json:"pause_ms"`
}

// RPC counts the calls of one method.
type RPC struct {
	Calls  int      `json:"calls"`
	Errors []string `json:"errors"`
}

// maxErrors bounds the error texts that are kept per method.
const maxErrors = 20

func newReport() *Report {
	return &Report{
		start:            time.Now(),
		Redials:          []Redial{},
		Steps:            map[string]int64{},
		RPCs:             map[string]*RPC{},
		Lifecycle:        []string{},
		ScriptRuns:       map[string]int{},
		CoordinateErrors: []string{},
		StatsAt:          []int64{},
	}
}

func (r *Report) update(change func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *Report) now() int64 { return time.Since(r.start).Milliseconds() }

func (r *Report) step(name string) {
	r.update(func(r *Report) { r.Steps[name] = r.now() })
}

func (r *Report) call(method string, err error) {
	r.update(func(r *Report) {
		rpc := r.RPCs[method]
		if rpc == nil {
			rpc = &RPC{Errors: []string{}}
			r.RPCs[method] = rpc
		}
		rpc.Calls++
		if err != nil && len(rpc.Errors) < maxErrors {
			rpc.Errors = append(rpc.Errors, err.Error())
		}
	})
}

func message(m proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil
	}
	return text
}
