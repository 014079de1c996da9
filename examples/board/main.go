// Command board is a shared board with a web page: cards in lists, the people who are here with
// their cursors, undo, and moderators who can remove people. Everything is kept in memory.
//
//	go run ./examples/board
package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"bennu.example/channel"
	"bennu.example/js"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/socket"
	"bennu.example/socket/token"
	"bennu.example/state"
)

const (
	cards = "board:main" // the topic of the cards, a shared map
	room  = "room:main"  // the topic of the people, and their cursors

	tokenAge = 10 * time.Minute // the page fetches another token in time
	removal  = push.Reason("a moderator has removed you")
)

//go:embed page
var files embed.FS

// board is the server.
type board struct {
	key     string // makes its holders moderators
	tokens  *token.Tokens[user]
	ps      *pubsub.PubSub
	who     *presence.Presence
	sockets *socket.Handler // of config
	removed sync.Map        // the IDs of removed users, until their last tokens have expired
}

type (
	// user is what a token says about its holder.
	user struct {
		ID        string `json:"id"`
		Name      string `json:"name"`
		Moderator bool   `json:"moderator"`
	}
	card struct {
		Text string  `json:"text"`
		List int     `json:"list"` // 0, 1 or 2
		At   float64 `json:"at"`   // the cards of a list are in this order
		By   string  `json:"by"`   // the user who has changed it last
	}
	joined struct{} // sent by join to its own channel
	// cursor is a place on a list: X from 0 to 1, Y in pixels. List -1 means that it has left.
	cursor struct {
		ID   string  `json:"id"`
		List int     `json:"list"`
		X    float64 `json:"x"`
		Y    float64 `json:"y"`
	}
)

func newBoard() *board {
	keys := [][]byte{[]byte(rand.Text() + rand.Text())}
	tokens, err := token.New[user](token.Config{Keys: keys, Purpose: "board", MaxAge: tokenAge})
	if err != nil {
		panic(err) // the key is too short
	}
	ps := pubsub.New(nil)
	return &board{key: rand.Text(), tokens: tokens, ps: ps, who: presence.New(ps, presence.Config{})}
}

// config returns the configuration of the sockets.
func (b *board) config() socket.Config {
	cfg := state.Config{Allow: allow, Limits: state.Limits{Value: 2 << 10, Items: 300, Rate: 20, ObjectRate: 200}}
	return socket.Config{
		Channels: channel.Routes{
			cards: state.New(state.NewMemory(state.MemoryConfig{})).Maps(cfg),
			room: channel.Define(b.join,
				channel.Info((*member).joined),
				channel.On("remove", (*member).remove),
				channel.On("cursor", (*member).cursor),
				// Only the newest cursor of each user waits for a client that reads slowly.
				channel.Latest[member]("cursor", func(c cursor) string { return c.ID })),
		},
		Auth:        &socket.Auth{Verify: b.verify},
		PubSub:      b.ps,
		MaxMessage:  8 << 10,
		MessageRate: 60, // a page sends up to 20 cursors per second
		Drain:       socket.Drain{Notice: time.Second, Spread: time.Second},
	}
}

// allow decides what a client may do with the cards. Everybody may change all of them, but nobody
// in the name of another user.
func allow(ctx context.Context, _ *channel.Channel, a state.Access) error {
	var c card
	switch {
	case a.Action == state.Read, a.Action == state.Write && a.Op.Delete:
		return nil
	case a.Action != state.Write:
		return state.ErrForbidden
	case json.Unmarshal(a.Op.Value, &c) != nil, !isText(c.Text, 300), c.List < 0, c.List > 2:
		return push.Reject("a card must have 1 to 300 characters and a list")
	case c.By != userOf(ctx).Name:
		return push.Reject("this is not your name")
	}
	return nil
}

// isText reports whether a text has 1 to limit characters, all of which can be seen.
func isText(text string, limit int) bool {
	isHidden := func(r rune) bool { return !unicode.IsPrint(r) }
	return strings.TrimSpace(text) != "" && utf8.RuneCountInString(text) <= limit && !strings.ContainsFunc(text, isHidden)
}

// token answers with a token: for the user of an earlier token, or for a new user with a name.
// There are no accounts, so a removed person can return in another tab, as somebody else.
func (b *board) token(w http.ResponseWriter, r *http.Request) {
	var from struct{ Name, Key, Token string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<10)).Decode(&from); err != nil {
		http.Error(w, "malformed request", http.StatusBadRequest)
		return
	}
	u, err := b.tokens.Verify(from.Token)
	if err != nil {
		isModerator := subtle.ConstantTimeCompare([]byte(from.Key), []byte(b.key)) == 1
		u = user{ID: rand.Text(), Name: strings.TrimSpace(from.Name), Moderator: isModerator}
	}
	if _, removed := b.removed.Load(u.ID); removed {
		http.Error(w, string(removal), http.StatusForbidden)
	} else if text, err := b.tokens.Sign(u); err != nil || !isText(u.Name, 32) {
		http.Error(w, "a name has 1 to 32 visible characters", http.StatusBadRequest)
	} else {
		_, _ = fmt.Fprint(w, text) // an error means that the client has gone
	}
}

// verify turns the token of a connection into a grant.
func (b *board) verify(_ context.Context, text string, _ *socket.Request) (socket.Grant, error) {
	u, expires, err := b.tokens.VerifyUntil(text)
	if _, removed := b.removed.Load(u.ID); removed {
		err = removal
	}
	return socket.Grant{ID: u.ID, Expires: expires, Claims: u}, err
}

// userOf returns the user of a callback's connection.
func userOf(ctx context.Context) user {
	grant, _ := socket.GrantFrom(ctx)
	u, _ := grant.Claims.(user)
	return u
}

// member is one client in the room. Its methods never run concurrently.
type member struct {
	*board
	user user
}

func (b *board) join(m *member, ctx context.Context, c *channel.Channel, _ struct{}) (any, error) {
	m.board, m.user = b, userOf(ctx)
	return nil, c.Send(joined{})
}

// joined runs after the join reply. It tracks the member in presence until the channel ends.
func (m *member) joined(_ context.Context, c *channel.Channel, _ joined) error {
	if _, err := m.who.Track(c, m.user.ID, m.user); err != nil {
		return err
	}
	return m.who.Push(c)
}

func (m *member) cursor(_ context.Context, c *channel.Channel, at cursor) (push.Reply, error) {
	at.ID = m.user.ID
	return push.NoReply, c.BroadcastFrom("cursor", at)
}

// remove ends all connections of a user. The user's tokens are refused from now on.
func (m *member) remove(ctx context.Context, _ *channel.Channel, u user) (push.Reply, error) {
	if _, isHere := m.who.Get(room, u.ID); !isHere || !m.user.Moderator {
		return push.NoReply, push.Reject("only moderators can remove people who are here")
	}
	m.removed.Store(u.ID, true)
	time.AfterFunc(tokenAge+time.Minute, func() { m.removed.Delete(u.ID) })
	return push.OK(nil), m.sockets.Revoke(ctx, u.ID, removal)
}

func main() {
	addr := flag.String("addr", "127.0.0.1:4001", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C exits immediately
	ln, err := net.Listen("tcp", *addr)
	if err == nil {
		b := newBoard()
		fmt.Printf("Board is open at http://%s/ (Ctrl-C ends it)\n", ln.Addr())
		fmt.Printf("Moderators open  http://%s/#%s\n", ln.Addr(), b.key)
		err = b.serve(ctx, ln)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "board:", err)
		os.Exit(1)
	}
}

// serve serves the board until ctx ends. It then shuts down gracefully, and waits for 10 s at most.
func (b *board) serve(ctx context.Context, ln net.Listener) error {
	page, _ := fs.Sub(files, "page") // fails only if the name is invalid
	b.sockets = socket.NewHandler(b.config())
	mux := http.NewServeMux()
	mux.Handle("/socket/", b.sockets)
	mux.Handle("/js/", js.Handler())
	mux.HandleFunc("POST /token", b.token)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("Cache-Control", "no-cache")
		http.FileServerFS(page).ServeHTTP(w, r)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	var failed error
	select {
	case failed = <-served:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(failed, b.sockets.Shutdown(ctx), b.who.Close(ctx), server.Shutdown(ctx))
}
