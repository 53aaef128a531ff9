package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"tailscale.com/tailcfg"
)

// seed is one workspace with one agent.
const seed = "owner: { username: ada }\nworkspace: { name: dev }\nagents: [{ name: main }]\n"

// server is a drpcd that can be started again on the same address and data.
type server struct {
	program, directory, address string
	flags                       []string
	process                     *exec.Cmd

	url         string
	agent       uuid.UUID
	agentToken  string
	clientToken string
}

// newServer seeds a directory, makes a client's token, and starts the server. Without a map it has its own.
func newServer(program string, derpMap *tailcfg.DERPMap) (*server, error) {
	directory, err := os.MkdirTemp("", "tunnel")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	// Picked and freed: the server must come back under the same address.
	s := &server{program: program, directory: directory, address: listener.Addr().String()}
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s.url = "http://" + s.address
	file := filepath.Join(directory, "seed.yaml")
	if err := os.WriteFile(file, []byte(seed), 0o600); err != nil {
		return nil, err
	}
	if derpMap != nil {
		text, err := json.Marshal(derpMap)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(directory, "derp.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return nil, err
		}
		s.flags = []string{"--derp-config-path", path}
	}
	output, err := s.verb("seed", file, "--output", "json")
	if err != nil {
		return nil, err
	}
	var agents []struct {
		AgentID uuid.UUID `json:"agent_id"`
		Token   string    `json:"token"`
	}
	if err := json.Unmarshal(output, &agents); err != nil {
		return nil, err
	}
	s.agent, s.agentToken = agents[0].AgentID, agents[0].Token
	output, err = s.verb("token", "create", "--owner", "ada")
	if err != nil {
		return nil, err
	}
	s.clientToken = strings.TrimSpace(string(output))
	return s, s.start()
}

func (s *server) verb(args ...string) ([]byte, error) {
	command := exec.Command(s.program, append(args, "--data-dir", s.directory)...)
	command.Stderr = os.Stderr
	return command.Output()
}

func (s *server) start() error {
	args := append([]string{"server", "--http-address", s.address, "--data-dir", s.directory, "--log-human", ""}, s.flags...)
	s.process = exec.Command(s.program, args...)
	s.process.Stderr = os.Stderr
	output, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "listening on ") {
		return errors.Join(err, fmt.Errorf("the server did not start: %q", line))
	}
	return nil
}

// stop ends the server in order.
func (s *server) stop() error {
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.process.Wait()
}

// swapCoordinator gives it a new coordinator.
func (s *server) swapCoordinator() error { return s.process.Process.Signal(syscall.SIGUSR1) }

func (s *server) remove() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	// The process may still be writing for a moment.
	time.Sleep(10 * time.Millisecond)
	_ = os.RemoveAll(s.directory)
}
