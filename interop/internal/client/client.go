// Package client is a reference client: it does what the programs of people who reach agents do, without a network
// behind it. It asks how to connect, dials, opens tunnels and tells what it hears of their other ends.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/drpcd/drpcd/interop/internal/agent"
	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

const (
	// firstPause and lastPause bound the pauses between dials, as in real clients.
	firstPause = 50 * time.Millisecond
	lastPause  = 10 * time.Second
	// goodbyeTimeout is how long a client waits for the server to end Coordinate.
	goodbyeTimeout = 5 * time.Second
	// maxEvents bounds what a report keeps.
	maxEvents = 100_000
)

// final are the answers to a first dial that a client takes for the last word.
var final = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
	http.StatusInternalServerError,
}

// Config says what to do.
type Config struct {
	Dial transport.Options
	// Agent is the one agent that the client is about; zero for a client of a user.
	Agent uuid.UUID
	// Tunnels are the agents to open tunnels to; that of a single agent's client goes without saying.
	Tunnels []uuid.UUID
	// Resume is whether it asks for resume tokens and comes back with them.
	Resume bool
	// ResumeToken is the first one.
	ResumeToken string
	// Owner, when set, is whose workspaces are followed.
	Owner uuid.UUID
	// Misbehave, when set, is what it does wrong once it is connected; see [misbehaviours].
	Misbehave string
	// CutAfter, when set, is when the first connection is cut without any goodbye.
	CutAfter time.Duration
	// Progress gets a line per event.
	Progress io.Writer
}

// Event is something that happened.
type Event struct {
	AtMS int64  `json:"at_ms"`
	What string `json:"what"`
	ID   string `json:"id,omitempty"`
}

// Report is what a client has seen.
type Report struct {
	OK bool `json:"ok"`
	// Info is what the connection route answered.
	Info        map[string]any `json:"info"`
	Connections int            `json:"connections"`
	Events      []Event        `json:"events"`
	// Counts of events by what they were.
	Counts map[string]int `json:"counts"`
	// Errors are those of coordination, in the server's words.
	Errors []string `json:"errors"`
	// Final is the answer that ended it.
	Final string `json:"final"`
	// DisconnectEnded is whether the server ended Coordinate after Disconnect.
	DisconnectEnded bool `json:"disconnect_ended"`
	// Updates are the workspace updates, as JSON.
	Updates []json.RawMessage `json:"updates"`

	mu    sync.Mutex
	start time.Time
	lines io.Writer
}

// Happened takes note of an event.
func (r *Report) happened(what, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Counts[what]++
	if len(r.Events) < maxEvents {
		r.Events = append(r.Events, Event{AtMS: time.Since(r.start).Milliseconds(), What: what, ID: id})
	}
	_, _ = fmt.Fprintln(r.lines, strings.TrimSpace(what+" "+id))
}

type client struct {
	config Config
	report *Report
	// id is what a client's own node is derived from; it stays, whatever peer id the server gives.
	id uuid.UUID

	mu     sync.Mutex
	resume string
}

// Run is a client until the context ends.
func Run(ctx context.Context, config Config) *Report {
	report := &Report{
		Events: []Event{}, Counts: map[string]int{}, Errors: []string{}, Updates: []json.RawMessage{},
		start: time.Now(), lines: config.Progress,
	}
	c := &client{config: config, report: report, id: uuid.New(), resume: config.ResumeToken}
	if config.Agent != uuid.Nil {
		c.config.Tunnels = append(c.config.Tunnels, config.Agent)
	}
	if err := c.run(ctx); err != nil {
		report.Final = err.Error()
	}
	report.mu.Lock()
	defer report.mu.Unlock()
	report.OK = report.Final == ""
	return report
}

func (c *client) path(last string) string {
	if c.config.Agent == uuid.Nil {
		if last == "coordinate" {
			return "/api/v2/tailnet"
		}
		return "/api/v2/workspaceagents/" + last
	}
	return "/api/v2/workspaceagents/" + c.config.Agent.String() + "/" + last
}

func (c *client) run(ctx context.Context) error {
	info, err := c.info(ctx)
	if err != nil {
		return err
	}
	c.report.Info = info
	pause := firstPause
	for {
		began, err := c.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.report.happened("ended", fmt.Sprint(err))
		var status *transport.StatusError
		if errors.As(err, &status) {
			if status.Status == http.StatusUnauthorized && strings.Contains(status.Body, "resume_token") {
				c.setResume("")
				continue
			}
			if c.report.Connections == 0 && slices.Contains(final, status.Status) {
				return err
			}
		}
		if began {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// info asks how to connect.
func (c *client) info(ctx context.Context) (map[string]any, error) {
	target, err := transport.CheckLoopback(c.config.Dial.URL)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.JoinPath(c.path("connection")).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Coder-Session-Token", c.config.Dial.Token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &transport.StatusError{Status: response.StatusCode, Body: string(body)}
	}
	info := map[string]any{}
	return info, json.Unmarshal(body, &info)
}

func (c *client) setResume(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resume = token
}

// connect dials once and stays for as long as the session does; whether it came to one is told.
func (c *client) connect(ctx context.Context) (began bool, err error) {
	options := c.config.Dial
	options.Path = c.path("coordinate")
	c.mu.Lock()
	options.ResumeToken = c.resume
	c.mu.Unlock()
	session, err := transport.Dial(ctx, options)
	if err != nil {
		return false, err
	}
	c.report.mu.Lock()
	c.report.Connections++
	first := c.report.Connections == 1
	c.report.mu.Unlock()
	c.report.happened("connected", "")

	// Calls outlive the context that ends the client: the goodbye goes over them.
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 4)
	var wait sync.WaitGroup
	start := func(name string, routine func(context.Context, *transport.Session) error) {
		wait.Go(func() {
			if err := routine(calls, session); err != nil {
				ended <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	leave := make(chan struct{})
	start("derp maps", c.derpMaps)
	start("coordination", func(calls context.Context, session *transport.Session) error {
		return c.coordinate(calls, session, leave)
	})
	if c.config.Resume {
		start("resume token", c.refresh)
	}
	if c.config.Owner != uuid.Nil {
		start("workspace updates", c.follow)
	}
	cut := make(<-chan time.Time)
	if first && c.config.CutAfter > 0 {
		cut = time.After(c.config.CutAfter)
	}
	select {
	case err = <-ended:
	case <-session.Mux.CloseChan():
		err = errors.New("session closed")
	case <-cut:
		session.Cut(false)
		err = errors.New("cut")
	case <-ctx.Done():
		close(leave)
		select {
		case <-ended:
		case <-session.Mux.CloseChan():
		case <-time.After(goodbyeTimeout):
		}
	}
	cancel()
	_ = session.Close()
	wait.Wait()
	return true, err
}

// derpMaps takes maps for as long as the server sends them.
func (c *client) derpMaps(ctx context.Context, session *transport.Session) error {
	stream, err := tailnetpb.NewDRPCTailnetClient(session).StreamDERPMaps(ctx, &tailnetpb.StreamDERPMapsRequest{})
	if err != nil {
		return err
	}
	for {
		derpMap, err := stream.Recv()
		if err != nil {
			return err
		}
		if derpMap.HomeParams == nil {
			return errors.New("a DERP map without home parameters ends a client")
		}
		c.report.happened("derp_map", "")
	}
}

// refresh asks for a resume token, once a session.
func (c *client) refresh(ctx context.Context, session *transport.Session) error {
	answer, err := tailnetpb.NewDRPCTailnetClient(session).RefreshResumeToken(ctx, &tailnetpb.RefreshResumeTokenRequest{})
	if err != nil {
		return err
	}
	if answer.RefreshIn.AsDuration() <= 0 || !answer.ExpiresAt.AsTime().After(time.Now()) {
		return errors.New("a resume token that is good for nothing")
	}
	c.setResume(answer.Token)
	c.report.happened("resume_token", "")
	return nil
}

// follow takes what is told of an owner's workspaces.
func (c *client) follow(ctx context.Context, session *transport.Session) error {
	request := &tailnetpb.WorkspaceUpdatesRequest{WorkspaceOwnerId: c.config.Owner[:]}
	stream, err := tailnetpb.NewDRPCTailnetClient(session).WorkspaceUpdates(ctx, request)
	if err != nil {
		return err
	}
	for {
		update, err := stream.Recv()
		if err != nil {
			return err
		}
		text, err := json.Marshal(update)
		if err != nil {
			return err
		}
		c.report.mu.Lock()
		if len(c.report.Updates) < maxEvents {
			c.report.Updates = append(c.report.Updates, text)
		}
		c.report.mu.Unlock()
		c.report.happened("workspace_update", "")
	}
}

// coordinate announces the client's node, opens its tunnels and tells of their other ends, until the server ends it.
func (c *client) coordinate(ctx context.Context, session *transport.Session, leave <-chan struct{}) error {
	stream, err := tailnetpb.NewDRPCTailnetClient(session).Coordinate(ctx)
	if err != nil {
		return err
	}
	node := agent.Node(c.id, 999)
	requests := []*tailnetpb.CoordinateRequest{
		{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: node}},
	}
	for _, id := range c.config.Tunnels {
		tunnel := &tailnetpb.CoordinateRequest_Tunnel{Id: slices.Clone(id[:])}
		requests = append(requests, &tailnetpb.CoordinateRequest{AddTunnel: tunnel})
	}
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			return err
		}
	}
	c.report.happened("tunnels", "")
	if c.config.Misbehave != "" {
		go misbehave(ctx, c.config.Misbehave, stream, node)
	}
	done := make(chan struct{})
	defer close(done)
	left := make(chan struct{})
	go func() {
		select {
		case <-leave:
			close(left)
			// Where this fails the stream has ended, which its reader tells.
			_ = stream.Send(&tailnetpb.CoordinateRequest{Disconnect: &tailnetpb.CoordinateRequest_Disconnect{}})
		case <-done:
		}
	}()
	for {
		response, err := stream.Recv()
		if err != nil {
			select {
			case <-left:
				if errors.Is(err, io.EOF) {
					c.report.mu.Lock()
					c.report.DisconnectEnded = true
					c.report.mu.Unlock()
				}
			default:
			}
			return err
		}
		if response.Error != "" {
			c.report.mu.Lock()
			if len(c.report.Errors) < maxEvents {
				c.report.Errors = append(c.report.Errors, response.Error)
			}
			c.report.mu.Unlock()
			c.report.happened("error", response.Error)
		}
		for _, peer := range response.PeerUpdates {
			if peer.Kind == tailnetpb.CoordinateResponse_PeerUpdate_NODE && peer.Node == nil {
				return errors.New("a peer update of kind NODE without node ends a client")
			}
			id, err := uuid.FromBytes(peer.Id)
			if err != nil {
				return err
			}
			c.report.happened(peer.Kind.String(), id.String())
		}
	}
}
