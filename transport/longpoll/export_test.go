package longpoll

// LimitPeerBodies sets the bound of all POSTs of other nodes, instead of maxPeerBodies.
func LimitPeerBodies(s *Server, n int64) { s.cluster.bodies.more.free = n }

// PeerBodiesInUse returns the sessions that have POSTs of other nodes in work.
func PeerBodiesInUse(s *Server) (sessions int) {
	s.cluster.bodies.mu.Lock()
	defer s.cluster.bodies.mu.Unlock()
	return len(s.cluster.bodies.sessions)
}

// FreePeerBodies returns the bytes that are free for POSTs of other nodes.
func FreePeerBodies(s *Server) (first, more int64) {
	b := &s.cluster.bodies
	b.first.mu.Lock()
	defer b.first.mu.Unlock()
	b.more.mu.Lock()
	defer b.more.mu.Unlock()
	return b.first.free, b.more.free
}
