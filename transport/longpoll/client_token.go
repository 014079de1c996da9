package longpoll

const lpMaxToken = 8 << 10

// lpToken is what names the session. Phoenix reads it from a header since 1.8.10, and from the query always. The query gets into the
// logs of servers and proxies, so it is used only where it must be: a server that marks its answers "no-store" is 1.8.10 or
// later. Should that have been a proxy's doing, then the first poll finds no session and begins another; nothing can have
// been lost by then, and from there on the query is used as well.
type lpToken struct {
	text    string
	inQuery bool
	proven  bool // the server knows the session by this token
}

// lpSendable reports whether a token can be sent back.
func lpSendable(t string) bool {
	for _, b := range []byte(t) {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return t != "" && len(t) <= lpMaxToken
}

// session is the token to send.
func (c *clientConn) session() lpToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// adopt begins a session with the token.
func (c *clientConn) adopt(text string, inQuery bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = lpToken{text: text, inQuery: inQuery}
	if inQuery {
		c.settle()
	}
}

// prove notes that the server knows the session.
func (c *clientConn) prove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
}

// replace takes another session's token, to be sent in the query as well, if the server cannot have known the first session by
// its header.
func (c *clientConn) replace(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.proven {
		return false
	}
	c.token = lpToken{text: text, inQuery: true}
	c.settle()
	return true
}

// settle ends the doubt about how the token is to be sent. With mu held.
func (c *clientConn) settle() {
	if !c.token.proven {
		c.token.proven = true
		close(c.settled)
	}
}
