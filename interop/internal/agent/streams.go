package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// Prefixes of an agent's two addresses; the rest of an address is the end of its id.
var (
	tailscalePrefix = [6]byte{0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0}
	coderPrefix     = [6]byte{0xfd, 0x60, 0x62, 0x7a, 0xa4, 0x2b}
)

// Node is what an agent tells of itself. A home region of 0 says that it has none yet.
func Node(id uuid.UUID, homeRegion int32) *tailnetpb.Node {
	addresses := []string{address(id, tailscalePrefix), address(id, coderPrefix)}
	number := int64(0)
	for _, b := range id[8:] {
		number = number<<8 | int64(b)
	}
	if number < 0 {
		number = -number
	}
	node := &tailnetpb.Node{
		Id:            number,
		AsOf:          timestamppb.Now(),
		Key:           append(append([]byte("np"), id[:]...), id[:]...),
		Disco:         fmt.Sprintf("discokey:%064x", id[:]),
		PreferredDerp: homeRegion,
		Addresses:     addresses,
		AllowedIps:    addresses,
		Endpoints:     []string{"127.0.0.1:41641"},
	}
	if homeRegion != 0 {
		node.DerpLatency = map[string]float64{fmt.Sprintf("%d-v4", homeRegion): 0.001}
	}
	return node
}

func address(id uuid.UUID, prefix [6]byte) string {
	copy(id[:6], prefix[:])
	return netip.PrefixFrom(netip.AddrFrom16(id), 128).String()
}

// coordination runs Coordinate. Its stream outlives the graceful part of the session, since the goodbye goes over it.
func (c *connection) coordination(manifest *agentpb.Manifest) {
	if c.graceful.Err() != nil {
		return
	}
	c.setCoordinating(true)
	c.wait.Go(func() {
		<-c.ctx.Done()
		c.setCoordinating(false)
	})
	c.remains("coordination", func(ctx context.Context) error {
		defer c.setCoordinating(false)
		return c.coordinate(ctx, manifest)
	})
}

func (a *Agent) setCoordinating(is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.coordinating = is
}

// coordinate tells the server of the agent's node, answers every node with ready_for_handshake, never tunnels, and says
// Disconnect when the agent stops; then the server has to end the stream.
func (c *connection) coordinate(ctx context.Context, manifest *agentpb.Manifest) error {
	id, err := uuid.FromBytes(manifest.AgentId)
	if err != nil {
		return err
	}
	stream, err := tailnetpb.NewDRPCTailnetClient(c.session).Coordinate(ctx)
	if stream, err = call(ctx, c, "Coordinate", stream, err); err != nil {
		return err
	}
	// The first node comes before any network check, so it has no home region; the next one has.
	for _, region := range []int32{0, homeRegion(manifest.DerpMap)} {
		node := Node(id, region)
		err := stream.Send(&tailnetpb.CoordinateRequest{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: node}})
		if err != nil {
			return err
		}
	}
	c.report.step("coordinating")

	var leaving atomic.Bool
	done := make(chan struct{})
	defer close(done)
	c.remains("disconnect", func(ctx context.Context) error {
		select {
		case <-c.graceful.Done():
		case <-done:
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		leaving.Store(true)
		c.report.step("disconnect")
		// Where this fails the stream has ended, which its reader tells.
		_ = stream.Send(&tailnetpb.CoordinateRequest{Disconnect: &tailnetpb.CoordinateRequest_Disconnect{}})
		return nil
	})
	for {
		response, err := stream.Recv()
		if err != nil {
			if leaving.Load() && errors.Is(err, io.EOF) {
				c.report.step("coordinate_ended")
				c.report.update(func(r *Report) { r.DisconnectEnded = true })
				return nil
			}
			c.report.streamEnd("Coordinate", err, ctx.Err() != nil || c.session.Mux.IsClosed())
			return err
		}
		if err := c.answer(stream, response); err != nil {
			return err
		}
	}
}

// maxPeersTold bounds the lines of progress about peers: an agent whose progress nobody reads shall not stand still.
const maxPeersTold = 256

// answer sends one ready_for_handshake for each node of a response, duplicates included.
func (c *connection) answer(
	stream tailnetpb.DRPCTailnet_CoordinateClient, response *tailnetpb.CoordinateResponse,
) error {
	request := &tailnetpb.CoordinateRequest{}
	for _, peer := range response.PeerUpdates {
		if id, err := uuid.FromBytes(peer.Id); err == nil && c.peersTold.Add(1) <= maxPeersTold {
			c.progress("peer %s %s", peer.Kind, id)
		}
		if peer.Kind != tailnetpb.CoordinateResponse_PeerUpdate_NODE {
			continue
		}
		if peer.Node == nil {
			return fatal{errors.New("peer update of kind NODE without node")}
		}
		ready := &tailnetpb.CoordinateRequest_ReadyForHandshake{Id: peer.Id}
		request.ReadyForHandshake = append(request.ReadyForHandshake, ready)
	}
	c.report.update(func(r *Report) {
		r.CoordinateResponses++
		for _, peer := range response.PeerUpdates {
			r.PeerUpdates[peer.Kind.String()]++
			id := fmt.Sprintf("%x", peer.Id)
			if peer.Node != nil && len(r.PeerIDs) < maxKept && !slices.Contains(r.PeerIDs, id) {
				r.PeerIDs = append(r.PeerIDs, id)
			}
		}
		if response.Error != "" && len(r.CoordinateErrors) < maxKept {
			r.CoordinateErrors = append(r.CoordinateErrors, response.Error)
		}
	})
	if len(request.ReadyForHandshake) == 0 {
		return nil
	}
	return stream.Send(request)
}

// derpMaps takes maps for as long as the server sends them; that it stops is an error.
func (c *connection) derpMaps(ctx context.Context) error {
	stream, err := tailnetpb.NewDRPCTailnetClient(c.session).StreamDERPMaps(ctx, &tailnetpb.StreamDERPMapsRequest{})
	if stream, err = call(ctx, c, "StreamDERPMaps", stream, err); err != nil {
		return err
	}
	for {
		derpMap, err := stream.Recv()
		if err != nil {
			c.report.streamEnd("StreamDERPMaps", err, ctx.Err() != nil || c.session.Mux.IsClosed())
			return err
		}
		c.report.update(func(r *Report) {
			r.DERPMaps++
			r.DERPMap = message(derpMap)
		})
		c.report.step("derp_map")
		if err := checkDERPMap(derpMap); err != nil {
			return err
		}
	}
}
