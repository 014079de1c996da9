//go:build !linux

package websocket

// poller exists on Linux only: elsewhere each connection keeps a goroutine.
type poller struct{}

func (s *Server) getPoller() *poller { return nil }

func (s *Server) poll() bool { return false }

func (p *poller) stop() {}

func (p *poller) watch(*serverConn) bool { return false }

func (p *poller) forget(*serverConn) {}
