package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// begin starts the chat at any address, and returns the address.
func begin(t *testing.T, args ...string) (cmd *exec.Cmd, addr string) {
	t.Helper()
	cmd = program(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, readAddr(t, bufio.NewReader(stdout))
}

// client is a connection that has joined room:tea.
type client struct {
	t    *testing.T
	conn *websocket.Conn
	ref  int
}

// welcome is the reply to a join.
type welcome struct {
	Messages []struct{ Body string }
	History  struct {
		Pos, Why  string
		Recovered bool
		Missed    int
	} `json:"$history"`
}

func join(t *testing.T, addr, since string) (*client, welcome) {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws://"+addr+"/socket/websocket?vsn=2.0.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	c := &client{t: t, conn: conn}
	ask := map[string]any{}
	if since != "" {
		ask["since"] = since
	}
	var w welcome
	c.push("phx_join", map[string]any{"user": "ann", "$history": ask}, &w)
	return c, w
}

// push pushes an event and decodes the response of its reply, which must be ok.
func (c *client) push(event string, payload, response any) {
	c.t.Helper()
	c.ref++
	data, err := json.Marshal([]any{"1", fmt.Sprint(c.ref), "room:tea", event, payload})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Write(c.t.Context(), websocket.MessageText, data); err != nil {
		c.t.Fatal(err)
	}
	for {
		ref, event, payload := c.read()
		if event != "phx_reply" || ref != fmt.Sprint(c.ref) {
			continue
		}
		reply := struct {
			Status   string
			Response any
		}{Response: response}
		if err := json.Unmarshal(payload, &reply); err != nil || reply.Status != "ok" {
			c.t.Fatalf("%s: %s (%v)", event, payload, err)
		}
		return
	}
}

func (c *client) read() (ref, event string, payload json.RawMessage) {
	c.t.Helper()
	_, data, err := c.conn.Read(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	var joinRef, topic any
	if err := json.Unmarshal(data, &[]any{&joinRef, &ref, &topic, &event, &payload}); err != nil {
		c.t.Fatal(err)
	}
	return ref, event, payload
}

// TestRestart checks what a client that was connected finds after a restart: with -data all that it
// missed, even if the server was killed, and without -data a new history.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		data bool
		end  os.Signal
	}{
		"interrupted with data": {true, os.Interrupt},
		"killed with data":      {true, os.Kill},
		"without data":          {false, os.Kill},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var args []string
			if tc.data {
				args = []string{"-data", filepath.Join(t.TempDir(), "new", "rooms")}
			}
			cmd, addr := begin(t, args...)
			_, before := join(t, addr, "")
			bob, _ := join(t, addr, "")
			for i := range 5 {
				bob.push("new_msg", map[string]string{"body": fmt.Sprint(i)}, nil)
			}
			if err := cmd.Process.Signal(tc.end); err != nil {
				t.Skip(err) // Windows has no such signal
			}
			if err := cmd.Wait(); tc.end == os.Interrupt && err != nil {
				t.Errorf("the chat exited with %v", err)
			}

			_, addr = begin(t, args...)
			ann, w := join(t, addr, before.History.Pos)
			if !tc.data {
				if w.History.Recovered || w.History.Why != "epoch" || len(w.Messages) > 0 {
					t.Errorf("join reply %+v", w)
				}
				return
			}
			if !w.History.Recovered || w.History.Missed != 5 || w.Messages != nil {
				t.Errorf("join reply %+v", w)
			}
			for i := 0; i < 5; {
				_, event, payload := ann.read()
				if event != "new_msg" {
					continue
				}
				var m struct{ Body string }
				if err := json.Unmarshal(payload, &m); err != nil || m.Body != fmt.Sprint(i) {
					t.Fatalf("message %d is %s (%v)", i, payload, err)
				}
				i++
			}
			if _, w = join(t, addr, ""); len(w.Messages) != 5 {
				t.Errorf("a new client has %+v", w)
			}
		})
	}
}

func TestDataInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begin(t, "-data", dir)
	cmd := program(t, "-addr", "127.0.0.1:0", "-data", dir)
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if text := string(out); strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "chat: open the data: ") {
		t.Errorf("output %q, want one line with the reason", out)
	}
}
