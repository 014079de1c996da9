package longpoll

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// Serve answers one request. The caller must have checked its origin.
//
// If a GET needs a new session, Serve calls connect. If connect returns no error, Serve calls the
// function that it returned, with the session's Conn. The Session receives nothing before that
// function has returned. An error of connect is answered with the protocol's status 403, or with
// the StatusError in it.
func (s *Server) Serve(
	w http.ResponseWriter, r *http.Request,
	connect func() (open func(transport.Conn) transport.Session, err error),
) {
	if r.Method == http.MethodPost {
		s.post(w, r)
		return
	}
	if !s.Discard(w, r) {
		setWriteDeadline(w)
		respond(w, http.StatusBadRequest, nil)
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.get(w, r, connect)
	case http.MethodOptions:
		h := w.Header()
		h.Set("Access-Control-Allow-Headers", strings.Join(r.Header.Values("Access-Control-Request-Headers"), ", "))
		h.Set("Access-Control-Allow-Methods", "get, post, options")
		h.Set("Access-Control-Max-Age", "3600")
		setWriteDeadline(w)
		respond(w, http.StatusOK, nil)
	default:
		setWriteDeadline(w)
		respond(w, http.StatusBadRequest, nil)
	}
}

// Refuse answers a request that the caller refuses, such as one from a page that may not connect.
// It reads the request's body first. The error determines the answer as an error of connect does,
// see Serve.
func (s *Server) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.Discard(w, r)
	s.refuse(w, err)
}

// refuse writes the answer to a refused request.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	setWriteDeadline(w)
	var status StatusError
	if !errors.As(err, &status) {
		respondStatus(w, statusForbidden)
		return
	}
	if errors.Is(err, errBusy) {
		w.Header().Set("Retry-After", strconv.Itoa(int(max(s.cfg.Window, time.Second)/time.Second)))
	}
	respond(w, int(status), nil)
}

// get answers a GET: a poll of its session, or the begin of a new one.
func (s *Server) get(w http.ResponseWriter, r *http.Request, connect connectFunc) {
	token := requestToken(r)
	if session, _ := s.find(token); session != nil && answerPoll(w, r, session, token) {
		return
	}
	s.begin(w, r, connect)
}

// answerPoll answers a GET of a session. It reports false, and writes nothing, if the session is
// gone.
func answerPoll(w http.ResponseWriter, r *http.Request, session pollSession, token string) (answered bool) {
	p := &poll{control: http.NewResponseController(w)}
	messages, gone := session.poll(r.Context(), p)
	if gone {
		return false
	}
	if messages != nil && writeMessages(w, session, p, token, messages) || r.Context().Err() != nil {
		return true
	}
	setWriteDeadline(w)
	_ = respondAnswer(w, statusEmpty, token, nil) // an error loses nothing
	return true
}

// writeMessages answers a poll with messages, unless a newer poll is to have them. It settles the
// poll.
func writeMessages(
	w http.ResponseWriter, session pollSession, p *poll, token string, messages []*serializer.Frame,
) (answered bool) {
	delivered := false
	defer func() { // also if w panics
		p.end()
		session.settle(delivered)
	}()
	if !p.begin() {
		return false
	}
	delivered = respondAnswer(w, statusOK, token, messages) == nil
	return true
}

// begin answers a GET with a new session.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, connect connectFunc) {
	l, err := s.open(r, connect)
	if l == nil {
		s.refuse(w, err)
		return
	}
	setWriteDeadline(w)
	c := claims{issued: time.Now().Unix(), node: s.node, session: l.id}
	if err := respondAnswer(w, statusGone, s.tokens.sign(c), nil); err != nil {
		l.end(fmt.Errorf("longpoll: open session: %w", err)) // the client does not have the token
	}
}

// post answers a POST.
func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	session, id := s.find(requestToken(r))
	if session == nil {
		s.Discard(w, r)
		setWriteDeadline(w)
		respondStatus(w, statusGone)
		return
	}
	parts, release, err := s.read(w, r, id)
	if err != nil {
		s.refuseBody(w, err)
		return
	}
	clearReadDeadline(w)
	status := session.post(r.Context(), parts, release)
	setWriteDeadline(w)
	respondStatus(w, status)
}

// read reads the messages of a POST. The caller must call release when they are no longer in use.
// If read fails, it has discarded the rest of the body.
func (s *Server) read(w http.ResponseWriter, r *http.Request, id tokenID) (parts []part, release func(), err error) {
	setReadDeadline(w)
	defer func() {
		if err != nil {
			s.discard(w, r)
		}
	}()
	if r.ContentLength > s.cfg.MaxBody {
		return nil, nil, errBodyTooLarge
	}
	body, ok := s.beginBody(r, id)
	if !ok {
		return nil, nil, errBodyBusy
	}
	setReadDeadline(w) // beginBody may have waited
	types := r.Header["Content-Type"]
	batch := len(types) == 1 && types[0] == typeBatch
	parts, err = readParts(body, batch, s.cfg.MaxBody, s.cfg.MaxMessage)
	if err != nil {
		body.release()
		return nil, nil, err
	}
	return parts, body.release, nil
}

// refuseBody answers a POST whose body was not read.
func (s *Server) refuseBody(w http.ResponseWriter, err error) {
	setWriteDeadline(w)
	switch {
	case errors.Is(err, errBodyBusy):
		s.busy.Add(1)
		respondStatus(w, statusTimeout) // the same as for a message that is not handled within the window
		return
	case errors.Is(err, errBodyTooLarge):
		s.tooBig.Add(1)
	}
	respond(w, httpStatusFor(err), nil)
}

// httpStatusFor returns the HTTP status for a body that cannot be read.
func httpStatusFor(err error) int {
	if errors.Is(err, errBodyBase64) {
		return http.StatusInternalServerError // Phoenix crashes
	}
	return http.StatusBadRequest
}

// requestToken returns the token of the request's session. A header takes precedence over the
// query, even if it is invalid.
func requestToken(r *http.Request) string {
	if tokens := r.Header[headerToken]; len(tokens) > 0 {
		return tokens[0]
	}
	tokens := r.URL.Query()["token"]
	if len(tokens) == 0 {
		return ""
	}
	return tokens[len(tokens)-1]
}
