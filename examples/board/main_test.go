package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channeltest"
	"bennu.example/internal/testenv/leak"
	"bennu.example/socket"
)

func TestMain(m *testing.M) { leak.Main(m) }

// startBoard serves a board in memory.
func startBoard(t *testing.T) (*board, *channeltest.Server) {
	t.Helper()
	b := newBoard()
	t.Cleanup(func() { _ = b.who.Close(context.Background()) })
	server := channeltest.Start(t, b.config())
	b.sockets = server.Handler()
	server.Mux.HandleFunc("POST /token", b.token)
	return b, server
}

// fetch requests a token.
func fetch(t *testing.T, b *board, body string) (status int, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	b.token(w, httptest.NewRequest(http.MethodPost, "/token", strings.NewReader(body)))
	data, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, strings.TrimSpace(string(data))
}

// enter connects a new user.
func enter(t *testing.T, b *board, server *channeltest.Server, name, key string) (*channeltest.Client, user) {
	t.Helper()
	status, text := fetch(t, b, `{"name":"`+name+`","key":"`+key+`"}`)
	u, err := b.tokens.Verify(text)
	if status != http.StatusOK || err != nil {
		t.Fatalf("no token: %d %s, %v", status, text, err)
	}
	return server.Connect(t, &socket.ClientConfig{AuthToken: text}), u
}

func TestTokens(t *testing.T) {
	t.Parallel()
	b := newBoard()
	defer b.who.Close(t.Context())
	_, text := fetch(t, b, `{"name":" ann "}`)
	ann, err := b.tokens.Verify(text)
	if err != nil || ann.Name != "ann" || ann.ID == "" || ann.Moderator {
		t.Fatalf("the token is of %+v, %v", ann, err)
	}
	_, text = fetch(t, b, `{"name":"eve","token":"`+text+`","key":"`+b.key+`"}`)
	if again, err := b.tokens.Verify(text); err != nil || again != ann {
		t.Errorf("the next token is of %+v, %v, want %+v", again, err, ann)
	}
	_, text = fetch(t, b, `{"name":"mod","key":"`+b.key+`"}`)
	if mod, err := b.tokens.Verify(text); err != nil || !mod.Moderator || mod.ID == ann.ID {
		t.Errorf("the token with the key is of %+v, %v", mod, err)
	}
	_, text = fetch(t, b, `{"name":"eve","key":"guess"}`)
	if eve, err := b.tokens.Verify(text); err != nil || eve.Moderator {
		t.Errorf("the token with a wrong key is of %+v, %v", eve, err)
	}
	for _, body := range []string{
		``, `{`, `{}`, `{"name":" "}`, `{"name":"\u202eann"}`, `{"name":"` + strings.Repeat("n", 33) + `"}`,
		`{"name":"ann","key":"` + strings.Repeat("k", 16<<10) + `"}`,
	} {
		if status, text := fetch(t, b, body); status != http.StatusBadRequest {
			t.Errorf("%.40s: %d %s", body, status, text)
		}
	}
}

func TestCards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, server := startBoard(t)
		ann, _ := enter(t, b, server, "ann", "")
		bob, _ := enter(t, b, server, "bob", "")
		mine, theirs := ann.Join(t, cards, nil), bob.Join(t, cards, nil)
		put := func(key string, value any) *channeltest.Push {
			return mine.Push("put", map[string]any{"key": key, "value": value})
		}
		plan := card{Text: "Plan", List: 1, At: 2, By: "ann"}
		put("1", plan).ExpectOK(t, nil)
		theirs.Expect(t, "put", map[string]any{"key": "1", "value": plan})

		const invalid = "a card must have 1 to 300 characters and a list"
		put("2", card{Text: "Plan", By: "bob"}).ExpectError(t, "this is not your name")
		put("2", card{Text: " ", By: "ann"}).ExpectError(t, invalid)
		put("2", card{Text: strings.Repeat("x", 301), By: "ann"}).ExpectError(t, invalid)
		put("2", card{Text: "Plan", List: 3, By: "ann"}).ExpectError(t, invalid)
		put("2", card{Text: "Plan", List: -1, By: "ann"}).ExpectError(t, invalid)
		put("2", "Plan").ExpectError(t, invalid)
		mine.Push("merge", map[string]any{"key": "1", "value": map[string]any{"by": "bob"}}).
			ExpectError(t, "this is not your name")
		mine.Push("remove", nil).ExpectError(t, "forbidden")

		theirs.Push("del", map[string]any{"key": "1"}).ExpectOK(t, nil)
		mine.Expect(t, "del", map[string]any{"key": "1"})
		theirs.Refute(t, "put", nil)
	})
}

func TestCursors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, server := startBoard(t)
		annClient, ann := enter(t, b, server, "ann", "")
		bobClient, bob := enter(t, b, server, "bob", "")
		mine, theirs := annClient.Join(t, room, nil), bobClient.Join(t, room, nil)
		mine.ExpectPresence(t, ann.ID, bob.ID)
		mine.Push("cursor", cursor{ID: bob.ID, List: 1, X: 0.5, Y: 20}).Refute(t)
		theirs.Expect(t, "cursor", cursor{ID: ann.ID, List: 1, X: 0.5, Y: 20})
		mine.Refute(t, "cursor", nil)
		bobClient.Close(t)
		mine.ExpectPresence(t, ann.ID)
	})
}

// TestSlowCursors checks that of each user only the newest cursor waits for a client.
func TestSlowCursors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, server := startBoard(t)
		bob, _ := enter(t, b, server, "bob", "")
		theirs := bob.Join(t, room, nil)
		bob.Network.Drop()
		id := strings.Repeat("ann", 10<<10) // long, so that the buffers of the network are soon full
		const sent = 100
		for i := range sent {
			server.Broadcast(t, room, "cursor", cursor{ID: id, Y: float64(i)})
			synctest.Wait()
		}
		bob.Network.Restore()
		theirs.Expect(t, "cursor", cursor{ID: id, Y: sent - 1})
		if n := server.Handler().Stats().WebSocket.Conflated; n < sent/2 {
			t.Errorf("%d cursors were replaced by newer ones", n)
		}
	})
}

func TestRemove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, server := startBoard(t)
		mod, modUser := enter(t, b, server, "mod", b.key)
		ann, annUser := enter(t, b, server, "ann", "")
		_, text := fetch(t, b, `{"name":"bob"}`)
		bob := server.Connect(t, &socket.ClientConfig{AuthToken: text})
		u, err := b.tokens.Verify(text)
		if err != nil {
			t.Fatal(err)
		}
		mods, anns, bobs := mod.Join(t, room, nil), ann.Join(t, room, nil), bob.Join(t, room, nil)
		bob.Join(t, cards, nil)
		const refused = "only moderators can remove people who are here"
		anns.Push("remove", u).ExpectError(t, refused)
		mods.Push("remove", user{ID: "nobody"}).ExpectError(t, refused)

		mods.Push("remove", u).ExpectOK(t, nil)
		if err := bobs.ExpectClose(t); err == nil || !strings.Contains(err.Error(), string(removal)) {
			t.Errorf("closed because of %v", err)
		}
		bob.ExpectStatus(t, socket.StatusDenied)
		anns.ExpectPresence(t, modUser.ID, annUser.ID)
		server.ExpectRefused(t, &socket.ClientConfig{AuthToken: text})
		status, reason := fetch(t, b, `{"token":"`+text+`"}`)
		if status != http.StatusForbidden || reason != string(removal) {
			t.Errorf("another token: %d %s", status, reason)
		}

		time.Sleep(tokenAge + 2*time.Minute) // the token has expired, and the server forgets its user
		if _, ok := b.removed.Load(u.ID); ok {
			t.Error("the removal is not forgotten")
		}
	})
}

// TestSize checks that the example stays what the guide says: short enough to read.
func TestSize(t *testing.T) {
	t.Parallel()
	const limit = 500
	lines := 0
	for _, file := range []string{"main.go", "page/index.html", "page/board.js"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(data, []byte("\n"))
	}
	if lines >= limit {
		t.Errorf("the program and its page have %d lines, want fewer than %d", lines, limit)
	}
}
