package websocket

// BreakPoller makes s unable to watch connections, as if the system refused.
func (s *Server) BreakPoller() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poller = &poller{s: s, fd: -1, stopped: true}
}
