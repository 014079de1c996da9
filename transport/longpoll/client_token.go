package longpoll

// maxTokenLength bounds the token that a server may issue.
const maxTokenLength = 8 << 10

// clientToken identifies the session to the server.
//
// Phoenix has always read the token from the query, and from a header since 1.8.10. The query
// appears in the logs of servers and proxies, so it is used only if necessary: a server that marks
// its answers "no-store" is 1.8.10 or later.
//
// If a proxy added that mark to the answer of an older server, the first poll finds no session and
// begins another one. Nothing can have been lost by then. From there on, the token is in the query
// as well.
type clientToken struct {
	text      string
	inQuery   bool
	confirmed bool // the server has found the session with this token
}

// isToken reports whether a token can be sent in a header.
func isToken(t string) bool {
	for _, b := range []byte(t) {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return t != "" && len(t) <= maxTokenLength
}

// currentToken returns the token to send.
func (c *clientConn) currentToken() clientToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// beginSession sets the token of a new session.
func (c *clientConn) beginSession(text string, inQuery bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = clientToken{text: text, inQuery: inQuery}
	if inQuery {
		c.settleToken()
	}
}

// confirmToken records that the server has found the session.
func (c *clientConn) confirmToken() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleToken()
}

// replaceToken sets the token of another session, to be sent in the query as well. It reports false
// if the server has already found the first session: then that session has ended.
func (c *clientConn) replaceToken(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.confirmed {
		return false
	}
	c.token = clientToken{text: text, inQuery: true}
	c.settleToken()
	return true
}

// settleToken marks the token as confirmed. From then on the way to send it does not change. The
// caller holds mu.
func (c *clientConn) settleToken() {
	if !c.token.confirmed {
		c.token.confirmed = true
		close(c.settled)
	}
}
