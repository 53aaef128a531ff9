// Package peer joins a node to a server: what the node says of itself goes to the server's coordinator, what the
// coordinator and the server's DERP maps say goes to the node. A session that ends is dialed again; the node stays.
package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"tailscale.com/types/logger"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
	"github.com/drpcd/drpcd/interop/tunnel/internal/node"
)

const (
	// firstPause and lastPause bound the pauses between dials.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Peer is a node and its sessions.
type Peer struct {
	*node.Node
	dial transport.Options
	// agent is who a client opens a tunnel to; zero for an agent.
	agent uuid.UUID
	logf  logger.Logf
	stop  context.CancelFunc
	wait  sync.WaitGroup

	mu sync.Mutex
	// own is what the node last said of itself, news tells that it said something else.
	own      *tailnetpb.Node
	news     chan struct{}
	sessions int
	seen     map[string]int
}

// Join starts the sessions of a node. A client names the agent that it is about.
func Join(ctx context.Context, n *node.Node, dial transport.Options, agent uuid.UUID, logf logger.Logf) *Peer {
	ctx, stop := context.WithCancel(ctx)
	p := &Peer{
		Node: n, dial: dial, agent: agent, logf: logf, stop: stop,
		news: make(chan struct{}, 1), seen: map[string]int{},
	}
	n.OnChange(func(own *tailnetpb.Node) {
		p.mu.Lock()
		p.own = own
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
	})
	p.wait.Go(func() { p.run(ctx) })
	return p
}

// Leave ends the sessions without a word, as a process that is killed does, and the node with them.
func (p *Peer) Leave() error {
	p.stop()
	p.wait.Wait()
	return p.Close()
}

// Sessions is how many sessions there were so far.
func (p *Peer) Sessions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions
}

// Seen is how many updates of a kind have come.
func (p *Peer) Seen(kind string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[kind]
}

func (p *Peer) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began, err := p.session(ctx)
		p.logf("session ended: %v", err)
		if began {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

func (p *Peer) session(ctx context.Context) (began bool, err error) {
	session, err := transport.Dial(ctx, p.dial)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p.mu.Lock()
	p.sessions++
	p.mu.Unlock()
	ended := make(chan error, 3)
	var wait sync.WaitGroup
	for _, routine := range []func(context.Context, *transport.Session) error{p.derpMaps, p.coordinate} {
		wait.Go(func() { ended <- routine(ctx, session) })
	}
	select {
	case err = <-ended:
	case <-session.Mux.CloseChan():
		err = errors.New("closed")
	case <-ctx.Done():
		err = ctx.Err()
	}
	cancel()
	session.Cut(false)
	wait.Wait()
	return true, err
}

func (p *Peer) derpMaps(ctx context.Context, session *transport.Session) error {
	stream, err := tailnetpb.NewDRPCTailnetClient(session).StreamDERPMaps(ctx, &tailnetpb.StreamDERPMapsRequest{})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("DERP maps: %w", err)
		}
		derpMap, err := node.DERPMap(message)
		if err != nil {
			return err
		}
		p.SetDERPMap(derpMap)
	}
}

func (p *Peer) coordinate(ctx context.Context, session *transport.Session) error {
	stream, err := tailnetpb.NewDRPCTailnetClient(session).Coordinate(ctx)
	if err != nil {
		return err
	}
	// One writer: what the node says, and answers to what it hears.
	requests := make(chan *tailnetpb.CoordinateRequest, 16)
	if p.agent != uuid.Nil {
		requests <- &tailnetpb.CoordinateRequest{AddTunnel: &tailnetpb.CoordinateRequest_Tunnel{Id: p.agent[:]}}
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			var request *tailnetpb.CoordinateRequest
			select {
			case <-ctx.Done():
				return
			case request = <-requests:
			case <-p.news:
				p.mu.Lock()
				own := p.own
				p.mu.Unlock()
				if own == nil {
					continue
				}
				request = &tailnetpb.CoordinateRequest{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: own}}
			}
			if stream.Send(request) != nil {
				return
			}
		}
	}()
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("coordination: %w", err)
		}
		if response.Error != "" {
			p.logf("coordination: %s", response.Error)
		}
		ready, err := p.take(response)
		if err != nil {
			return err
		}
		if p.agent == uuid.Nil && len(ready) > 0 {
			select {
			case requests <- &tailnetpb.CoordinateRequest{ReadyForHandshake: ready}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// take gives the node what a response says, and returns who is to be told that the node is ready for it.
func (p *Peer) take(
	response *tailnetpb.CoordinateResponse,
) (ready []*tailnetpb.CoordinateRequest_ReadyForHandshake, err error) {
	for _, update := range response.PeerUpdates {
		id, err := uuid.FromBytes(update.Id)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		p.seen[update.Kind.String()]++
		p.mu.Unlock()
		p.logf("%s %s", update.Kind, id)
		switch update.Kind {
		case tailnetpb.CoordinateResponse_PeerUpdate_NODE:
			if err := p.Update(id, update.Node); err != nil {
				return nil, err
			}
			ready = append(ready, &tailnetpb.CoordinateRequest_ReadyForHandshake{Id: update.Id})
		case tailnetpb.CoordinateResponse_PeerUpdate_DISCONNECTED:
			if err := p.Remove(id); err != nil {
				return nil, err
			}
		case tailnetpb.CoordinateResponse_PeerUpdate_READY_FOR_HANDSHAKE:
			if err := p.Ready(id); err != nil {
				return nil, err
			}
		case tailnetpb.CoordinateResponse_PeerUpdate_LOST:
			// The peer may be back any moment; what runs over it runs on.
		}
	}
	return ready, nil
}
