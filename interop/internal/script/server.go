package script

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
	"storj.io/drpc"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcserver"

	"github.com/drpcd/drpcd/interop/internal/transport"
)

// Handler serves the script to agents' dials, a [Service] for each session, with the libraries of the original.
func Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != transport.Path {
			http.NotFound(w, r)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		service := &Service{}
		if err := serve(r.Context(), conn, service); err != nil {
			service.Note("session failed")
			_ = conn.Close(websocket.StatusInternalError, "")
			return
		}
		service.Note("session ended")
	})
}

func serve(ctx context.Context, conn *websocket.Conn, service *Service) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	service.Shutdown = cancel
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	session, err := yamux.Server(websocket.NetConn(ctx, conn, websocket.MessageBinary), config)
	if err != nil {
		return err
	}
	defer session.Close()
	mux := drpcmux.New()
	if err := service.Register(mux); err != nil {
		return err
	}
	server := drpcserver.NewWithOptions(recovering{mux}, drpcserver.Options{
		Manager: transport.DRPCOptions(),
		Log: func(err error) {
			// As the original; and without the lines that a race makes, when a client ends a call that the server is
			// about to end.
			if !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
				service.Note("log: %v", err)
			}
		},
	})
	if err := server.Serve(ctx, session); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// recovering keeps a panic of a handler from ending the process, as the original does.
type recovering struct{ drpc.Handler }

func (h recovering) HandleRPC(stream drpc.Stream, rpc string) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("internal error: panic serving dRPC request")
		}
	}()
	return h.Handler.HandleRPC(stream, rpc)
}
