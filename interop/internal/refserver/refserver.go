// Package refserver is a server made of the Go libraries that the original is made of: drpcmux and drpcserver on yamux on
// coder/websocket. It has no store; what it answers is scripted.
package refserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/hashicorp/yamux"
	"google.golang.org/protobuf/types/known/durationpb"
	"storj.io/drpc/drpcerr"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcserver"

	"github.com/drpcd/drpcd/interop/internal/transport"
	"github.com/drpcd/drpcd/interop/proto/agentpb"
	"github.com/drpcd/drpcd/interop/proto/tailnetpb"
)

// Script says what the server answers; the zero value is a server on which an agent becomes ready.
type Script struct {
	// Banners is asked on each call, with the number of calls before it.
	Banners func(n int) error
	// Monitoring replaces the answer when set.
	Monitoring func() (*agentpb.GetResourcesMonitoringConfigurationResponse, error)
	// Manifest changes the manifest when set.
	Manifest func(*agentpb.Manifest)
	// LogLimit answers that the log limit was reached.
	LogLimit bool
	// StatsInterval is asked on each call, with the number of calls before it; 30 s without it.
	StatsInterval func(n int) time.Duration
	// Lifecycle is asked on each report when set, before it is recorded.
	Lifecycle func(agentpb.Lifecycle_State) error
	// DERPMap changes the maps that are streamed when set.
	DERPMap func(*tailnetpb.DERPMap)
	// Peers are sent on each Coordinate stream, after the agent's first node.
	Peers []*tailnetpb.CoordinateResponse
	// IgnoreDisconnect keeps Coordinate open after Disconnect.
	IgnoreDisconnect bool
	// KeepAlive, when set, is both the interval of yamux's pings and the time that a peer has to answer one.
	KeepAlive time.Duration
	// Record keeps what was received, for [Server.Events].
	Record bool
}

// maxEvents bounds what a recording server keeps.
const maxEvents = 10_000

// Server is the HTTP handler.
type Server struct {
	agentpb.DRPCAgentUnimplementedServer
	tailnetpb.DRPCTailnetUnimplementedServer

	script         *Script
	banners, stats atomic.Int64
	drpc           *drpcserver.Server

	mu     sync.Mutex
	events []string
}

// Events are what the server received, in order: the method and, where a test looks at it, what it carried.
func (s *Server) Events() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func (s *Server) record(format string, args ...any) {
	if !s.script.Record {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) < maxEvents {
		s.events = append(s.events, fmt.Sprintf(format, args...))
	}
}

// New makes a server that answers by a script.
func New(script *Script) *Server {
	s := &Server{script: script}
	mux := drpcmux.New()
	must(agentpb.DRPCRegisterAgent(mux, s))
	must(tailnetpb.DRPCRegisterTailnet(mux, s))
	s.drpc = drpcserver.NewWithOptions(mux, drpcserver.Options{Manager: transport.DRPCOptions(), Log: func(error) {}})
	return s
}

// must stops the program when a service cannot be registered, which only happens when it is registered twice.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != transport.Path {
		http.NotFound(w, r)
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s.record("dial version=%s role=%s", r.URL.Query().Get("version"), r.URL.Query().Get("role"))
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	if s.script.KeepAlive > 0 {
		config.KeepAliveInterval, config.ConnectionWriteTimeout = s.script.KeepAlive, s.script.KeepAlive
	}
	session, err := yamux.Server(websocket.NetConn(ctx, conn, websocket.MessageBinary), config)
	if err != nil {
		_ = conn.Close(websocket.StatusInternalError, err.Error())
		return
	}
	defer session.Close()
	if err := s.drpc.Serve(ctx, session); err != nil && !errors.Is(err, io.EOF) {
		_ = conn.Close(websocket.StatusInternalError, "")
	}
}

func (s *Server) GetManifest(context.Context, *agentpb.GetManifestRequest) (*agentpb.Manifest, error) {
	s.record("GetManifest")
	id := uuid.New()
	manifest := &agentpb.Manifest{
		AgentId: id[:], AgentName: "main", OwnerUsername: "ada", WorkspaceName: "dev", WorkspaceId: id[:],
		DerpMap: derpMap(),
		Scripts: []*agentpb.WorkspaceAgentScript{{Id: id[:], LogSourceId: id[:], Script: "start", RunOnStart: true}},
	}
	if s.script.Manifest != nil {
		s.script.Manifest(manifest)
	}
	return manifest, nil
}

func (s *Server) GetAnnouncementBanners(
	context.Context, *agentpb.GetAnnouncementBannersRequest,
) (*agentpb.GetAnnouncementBannersResponse, error) {
	s.record("GetAnnouncementBanners")
	n := int(s.banners.Add(1)) - 1
	if s.script.Banners != nil {
		if err := s.script.Banners(n); err != nil {
			return nil, err
		}
	}
	return &agentpb.GetAnnouncementBannersResponse{}, nil
}

func (s *Server) GetResourcesMonitoringConfiguration(
	context.Context, *agentpb.GetResourcesMonitoringConfigurationRequest,
) (*agentpb.GetResourcesMonitoringConfigurationResponse, error) {
	s.record("GetResourcesMonitoringConfiguration")
	if s.script.Monitoring != nil {
		return s.script.Monitoring()
	}
	return &agentpb.GetResourcesMonitoringConfigurationResponse{
		Config: &agentpb.GetResourcesMonitoringConfigurationResponse_Config{
			NumDatapoints: 20, CollectionIntervalSeconds: 10,
		},
	}, nil
}

func (s *Server) UpdateStats(
	_ context.Context, request *agentpb.UpdateStatsRequest,
) (*agentpb.UpdateStatsResponse, error) {
	s.record("UpdateStats stats=%t", request.Stats != nil)
	interval := 30 * time.Second
	if n := int(s.stats.Add(1)) - 1; s.script.StatsInterval != nil {
		interval = s.script.StatsInterval(n)
	}
	return &agentpb.UpdateStatsResponse{ReportInterval: durationpb.New(interval)}, nil
}

func (s *Server) UpdateLifecycle(
	_ context.Context, request *agentpb.UpdateLifecycleRequest,
) (*agentpb.Lifecycle, error) {
	if s.script.Lifecycle != nil {
		if err := s.script.Lifecycle(request.GetLifecycle().GetState()); err != nil {
			return nil, err
		}
	}
	s.record("UpdateLifecycle %s", request.GetLifecycle().GetState())
	return request.Lifecycle, nil
}

func (s *Server) UpdateStartup(_ context.Context, request *agentpb.UpdateStartupRequest) (*agentpb.Startup, error) {
	s.record("UpdateStartup %s", request.GetStartup().GetExpandedDirectory())
	return request.Startup, nil
}

func (s *Server) BatchUpdateMetadata(
	_ context.Context, request *agentpb.BatchUpdateMetadataRequest,
) (*agentpb.BatchUpdateMetadataResponse, error) {
	for _, item := range request.Metadata {
		s.record("BatchUpdateMetadata %s", item.Key)
	}
	return &agentpb.BatchUpdateMetadataResponse{}, nil
}

func (s *Server) BatchCreateLogs(
	_ context.Context, request *agentpb.BatchCreateLogsRequest,
) (*agentpb.BatchCreateLogsResponse, error) {
	for _, line := range request.Logs {
		s.record("BatchCreateLogs %s", line.Output)
	}
	return &agentpb.BatchCreateLogsResponse{LogLimitExceeded: s.script.LogLimit}, nil
}

// GetServiceBanner is what agents before API 2.1 ask for.
func (s *Server) GetServiceBanner(context.Context, *agentpb.GetServiceBannerRequest) (*agentpb.ServiceBanner, error) {
	s.record("GetServiceBanner")
	return &agentpb.ServiceBanner{}, nil
}

// BatchUpdateAppHealths takes everything.
func (s *Server) BatchUpdateAppHealths(
	_ context.Context, request *agentpb.BatchUpdateAppHealthRequest,
) (*agentpb.BatchUpdateAppHealthResponse, error) {
	for _, update := range request.Updates {
		s.record("BatchUpdateAppHealths %s", update.Health)
	}
	return &agentpb.BatchUpdateAppHealthResponse{}, nil
}

// StreamDERPMaps sends one map and stays.
func (s *Server) StreamDERPMaps(
	_ *tailnetpb.StreamDERPMapsRequest, stream tailnetpb.DRPCTailnet_StreamDERPMapsStream,
) error {
	s.record("StreamDERPMaps")
	defer stream.Close()
	streamed := derpMap()
	if s.script.DERPMap != nil {
		s.script.DERPMap(streamed)
	}
	if err := stream.Send(streamed); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Coordinate sends the scripted peers after the first node and reads until Disconnect.
func (s *Server) Coordinate(stream tailnetpb.DRPCTailnet_CoordinateStream) error {
	defer stream.Close()
	peers := s.script.Peers
	for {
		request, err := stream.Recv()
		if err != nil {
			s.record("Coordinate lost")
			return nil
		}
		if node := request.GetUpdateSelf().GetNode(); node != nil {
			s.record("Coordinate node home=%d addresses=%d", node.PreferredDerp, len(node.Addresses))
			for _, response := range peers {
				if err := stream.Send(response); err != nil {
					return err
				}
			}
			peers = nil
		}
		for _, ready := range request.ReadyForHandshake {
			s.record("Coordinate ready_for_handshake %x", ready.Id)
		}
		if request.AddTunnel != nil {
			s.record("Coordinate add_tunnel")
		}
		if request.Disconnect != nil {
			s.record("Coordinate disconnect")
			if !s.script.IgnoreDisconnect {
				return nil
			}
		}
	}
}

// Unimplemented is what a method answers that a server does not have.
func Unimplemented() error {
	return drpcerr.WithCode(errors.New("Unimplemented"), drpcerr.Unimplemented)
}

func derpMap() *tailnetpb.DERPMap {
	return &tailnetpb.DERPMap{
		HomeParams: &tailnetpb.DERPMap_HomeParams{},
		Regions: map[int64]*tailnetpb.DERPMap_Region{999: {
			RegionId: 999, RegionCode: "test", RegionName: "Test",
			Nodes: []*tailnetpb.DERPMap_Region_Node{{Name: "999a", RegionId: 999, HostName: "127.0.0.1", StunPort: -1}},
		}},
	}
}
