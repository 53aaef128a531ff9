package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

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

// Node is what an agent tells of itself.
func Node(id uuid.UUID) *tailnetpb.Node {
	addresses := []string{address(id, tailscalePrefix), address(id, coderPrefix)}
	number := int64(0)
	for _, b := range id[8:] {
		number = number<<8 | int64(b)
	}
	if number < 0 {
		number = -number
	}
	return &tailnetpb.Node{
		Id:            number,
		AsOf:          timestamppb.Now(),
		Key:           append([]byte("np"), make([]byte, 32)...),
		Disco:         fmt.Sprintf("discokey:%064x", id[:]),
		PreferredDerp: 999,
		DerpLatency:   map[string]float64{"999-v4": 0.001},
		Addresses:     addresses,
		AllowedIps:    addresses,
		Endpoints:     []string{"127.0.0.1:41641"},
	}
}

func address(id uuid.UUID, prefix [6]byte) string {
	copy(id[:6], prefix[:])
	return netip.PrefixFrom(netip.AddrFrom16(id), 128).String()
}

// coordinate tells the server of the agent's node, answers every node with ready_for_handshake, and never tunnels.
func (c *connection) coordinate() error {
	c.mu.Lock()
	id, _ := uuid.FromBytes(c.manifest.AgentId)
	c.mu.Unlock()
	client := tailnetpb.NewDRPCTailnetClient(c.session)
	stream, err := client.Coordinate(c.ctx)
	if stream, err = call(c, "Coordinate", stream, err); err != nil {
		return err
	}
	update := &tailnetpb.CoordinateRequest{UpdateSelf: &tailnetpb.CoordinateRequest_UpdateSelf{Node: Node(id)}}
	if err := stream.Send(update); err != nil {
		return err
	}
	c.report.step("coordinating")

	ended := make(chan struct{})
	disconnected := make(chan struct{})
	c.wait.Add(1)
	go func() {
		defer c.wait.Done()
		select {
		case <-c.stopping:
			if !c.config.Abrupt {
				_ = stream.Send(&tailnetpb.CoordinateRequest{Disconnect: &tailnetpb.CoordinateRequest_Disconnect{}})
				close(disconnected)
			}
		case <-ended:
		case <-c.ctx.Done():
		}
	}()
	defer close(ended)
	for {
		response, err := stream.Recv()
		if err != nil {
			select {
			case <-disconnected:
				c.report.step("coordinate_ended")
				c.report.update(func(r *Report) { r.DisconnectEnded = true })
				close(c.coordinateEnded)
				<-c.ctx.Done()
				return nil
			default:
			}
			return fmt.Errorf("coordinate: %w", err)
		}
		c.report.update(func(r *Report) {
			r.CoordinateResponses++
			if response.Error != "" {
				r.CoordinateErrors = append(r.CoordinateErrors, response.Error)
			}
		})
		request := &tailnetpb.CoordinateRequest{}
		for _, peer := range response.PeerUpdates {
			if peer.Kind == tailnetpb.CoordinateResponse_PeerUpdate_NODE {
				ready := &tailnetpb.CoordinateRequest_ReadyForHandshake{Id: peer.Id}
				request.ReadyForHandshake = append(request.ReadyForHandshake, ready)
			}
		}
		if len(request.ReadyForHandshake) > 0 {
			if err := stream.Send(request); err != nil {
				return err
			}
		}
	}
}

func (c *connection) derpMaps() error {
	client := tailnetpb.NewDRPCTailnetClient(c.session)
	stream, err := client.StreamDERPMaps(c.ctx, &tailnetpb.StreamDERPMapsRequest{})
	if stream, err = call(c, "StreamDERPMaps", stream, err); err != nil {
		return err
	}
	for {
		derpMap, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("recv DERP map: %w", err)
		}
		if err := checkDERPMap(derpMap); err != nil {
			return err
		}
		c.report.step("derp_map")
		c.report.update(func(r *Report) {
			r.DERPMaps++
			r.DERPMap = message(derpMap)
		})
	}
}

// stats asks for the interval with an empty report, then reports.
func (c *connection) stats() error {
	request := &agentpb.UpdateStatsRequest{}
	for {
		response, err := c.client.UpdateStats(c.ctx, request)
		if response, err = call(c, "UpdateStats", response, err); err != nil {
			return err
		}
		interval := response.GetReportInterval().AsDuration()
		if interval <= 0 {
			return errors.New("report interval is not positive")
		}
		c.report.update(func(r *Report) {
			r.StatsAt = append(r.StatsAt, r.now())
			r.StatsInterval = interval.Milliseconds()
		})
		if !c.sleep(interval) {
			return nil
		}
		request = &agentpb.UpdateStatsRequest{Stats: &agentpb.Stats{
			ConnectionsByProto:        map[string]int64{"TCP": 1},
			ConnectionMedianLatencyMs: -0.001,
			RxPackets:                 10, RxBytes: 1000, TxPackets: 20, TxBytes: 2000,
		}}
	}
}

// appHealth reports once; only apps that are checked have a health.
func (c *connection) appHealth() error {
	request := &agentpb.BatchUpdateAppHealthRequest{}
	for _, app := range c.manifest.Apps {
		if app.Health != agentpb.WorkspaceApp_DISABLED {
			update := &agentpb.BatchUpdateAppHealthRequest_HealthUpdate{Id: app.Id, Health: agentpb.AppHealth_HEALTHY}
			request.Updates = append(request.Updates, update)
		}
	}
	if len(request.Updates) > 0 {
		_, err := c.client.BatchUpdateAppHealths(c.ctx, request)
		_, _ = call(c, "BatchUpdateAppHealths", struct{}{}, err)
	}
	return nil
}

// reportMetadata collects every item at once and then in its interval. The number of nanoseconds counts as seconds.
func (c *connection) reportMetadata() error {
	c.mu.Lock()
	items := c.manifest.Metadata
	c.mu.Unlock()
	due := make([]time.Time, len(items))
	for round := 0; ; round++ {
		request := &agentpb.BatchUpdateMetadataRequest{}
		for i, item := range items {
			interval := time.Duration(item.GetInterval().AsDuration().Nanoseconds()) * time.Second
			if now := time.Now(); !now.Before(due[i]) && (interval > 0 || round == 0) {
				due[i] = now.Add(interval)
				request.Metadata = append(request.Metadata, &agentpb.Metadata{
					Key: item.Key,
					Result: &agentpb.WorkspaceAgentMetadata_Result{
						CollectedAt: timestamppb.New(now), Value: fmt.Sprintf("%s %d", item.Script, round),
					},
				})
			}
		}
		if len(request.Metadata) > 0 {
			ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
			_, err := c.client.BatchUpdateMetadata(ctx, request)
			cancel()
			if _, err = call(c, "BatchUpdateMetadata", struct{}{}, err); err != nil {
				return err
			}
			c.report.update(func(r *Report) { r.MetadataValues += len(request.Metadata) })
		}
		if !c.sleep(time.Second) {
			return nil
		}
	}
}

// Limits of one BatchCreateLogs request.
const (
	maxLogBatch    = 1 << 20
	logLineCost    = 21
	logSendPause   = time.Second
	logShutdownGap = 50 * time.Millisecond
)

// sendLogs sends what is queued, a source at a time, at most once per second.
func (c *connection) sendLogs() error {
	for {
		pause := logSendPause
		if c.isStopping() {
			pause = logShutdownGap
		}
		batch, source := c.nextLogs()
		if len(batch) == 0 {
			if !c.sleep(20 * time.Millisecond) {
				return nil
			}
			continue
		}
		request := &agentpb.BatchCreateLogsRequest{LogSourceId: source}
		for _, line := range batch {
			request.Logs = append(request.Logs, &agentpb.Log{
				CreatedAt: timestamppb.Now(), Output: line.text, Level: agentpb.Log_INFO,
			})
		}
		response, err := c.client.BatchCreateLogs(c.ctx, request)
		if response, err = call(c, "BatchCreateLogs", response, err); err != nil {
			return err
		}
		c.mu.Lock()
		c.logs = c.logs[len(batch):]
		c.logsDone = response.LogLimitExceeded
		c.mu.Unlock()
		c.report.update(func(r *Report) {
			r.LogLimitExceeded = response.LogLimitExceeded
			if !response.LogLimitExceeded {
				r.LogLines += len(batch)
			}
		})
		if response.LogLimitExceeded {
			return nil
		}
		if !c.sleep(pause) {
			return nil
		}
	}
}

// nextLogs is the longest run of queued lines of one source that one request may hold.
func (c *connection) nextLogs() ([]logLine, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 0
	for i, line := range c.logs {
		size += len(line.text) + logLineCost
		if string(line.source) != string(c.logs[0].source) || size > maxLogBatch {
			return c.logs[:i], c.logs[0].source
		}
	}
	if len(c.logs) == 0 {
		return nil, nil
	}
	return c.logs, c.logs[0].source
}
