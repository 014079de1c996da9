package websocket

// BreakPoller makes s unable to park connections, as if the system refused.
func (s *Server) BreakPoller() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poller = &poller{s: s, fd: -1, known: make(map[uintptr]*serverConn)}
}
