//go:build !linux

package websocket

// defaultParkAfter is zero where there is no poller.
const defaultParkAfter = 0

// poller exists on Linux only: elsewhere an idle connection keeps its reader.
type poller struct{}

func (s *Server) getPoller() *poller { return nil }

func (s *Server) forget(*serverConn) {}

func (p *poller) stop() {}

func (p *poller) arm(*serverConn) bool { return false }
