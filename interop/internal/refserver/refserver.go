// Package refserver is a server made of the Go libraries that the original is made of: drpcmux and drpcserver on yamux on
// coder/websocket. It has no store; what it answers is scripted.
package refserver

import (
	"context"
	"errors"
	"io"
	"net/http"
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
}

// Server is the HTTP handler.
type Server struct {
	agentpb.DRPCAgentUnimplementedServer
	tailnetpb.DRPCTailnetUnimplementedServer

	script         *Script
	banners, stats atomic.Int64
	drpc           *drpcserver.Server
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
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
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
	context.Context, *agentpb.UpdateStatsRequest,
) (*agentpb.UpdateStatsResponse, error) {
	interval := 30 * time.Second
	if n := int(s.stats.Add(1)) - 1; s.script.StatsInterval != nil {
		interval = s.script.StatsInterval(n)
	}
	return &agentpb.UpdateStatsResponse{ReportInterval: durationpb.New(interval)}, nil
}

func (s *Server) UpdateLifecycle(
	_ context.Context, request *agentpb.UpdateLifecycleRequest,
) (*agentpb.Lifecycle, error) {
	return request.Lifecycle, nil
}

func (s *Server) UpdateStartup(_ context.Context, request *agentpb.UpdateStartupRequest) (*agentpb.Startup, error) {
	return request.Startup, nil
}

func (s *Server) BatchUpdateMetadata(
	context.Context, *agentpb.BatchUpdateMetadataRequest,
) (*agentpb.BatchUpdateMetadataResponse, error) {
	return &agentpb.BatchUpdateMetadataResponse{}, nil
}

func (s *Server) BatchCreateLogs(
	context.Context, *agentpb.BatchCreateLogsRequest,
) (*agentpb.BatchCreateLogsResponse, error) {
	return &agentpb.BatchCreateLogsResponse{LogLimitExceeded: s.script.LogLimit}, nil
}

// StreamDERPMaps sends one map and stays.
func (s *Server) StreamDERPMaps(
	_ *tailnetpb.StreamDERPMapsRequest, stream tailnetpb.DRPCTailnet_StreamDERPMapsStream,
) error {
	defer stream.Close()
	if err := stream.Send(derpMap()); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Coordinate reads until Disconnect and answers nothing.
func (s *Server) Coordinate(stream tailnetpb.DRPCTailnet_CoordinateStream) error {
	defer stream.Close()
	for {
		request, err := stream.Recv()
		if err != nil || request.Disconnect != nil {
			return nil
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
