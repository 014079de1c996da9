package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"bennu.example/serializer"
)

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		s.Join(t, "room:a", params{"bob"})
		const meta = `[{"phx_ref":"","at":"home"}]`
		expect(t, s, true, exitOK, "bob "+meta+"\neve "+meta+"\n", "",
			"presence", "URL", "room:a", "-p", `{"user":"eve"}`)
		c := launch(t, s, false, "presence", "URL", "room:a", "-p", `{"user":"eve"}`, "--follow")
		c.out.Await(t, `{"type":"present","topic":"room:a","key":"eve","metas":`+meta+"}\n")
		carl := s.Join(t, "room:a", params{"carl"})
		c.out.Await(t, `{"type":"join","topic":"room:a","key":"carl","metas":`+meta+"}\n")
		carl.Leave(t)
		c.out.Await(t, `{"type":"leave","topic":"room:a","key":"carl","metas":`+meta+"}\n")
		if n := strings.Count(c.out.String(), `"eve"`); n != 1 {
			t.Errorf("the command's own presence is printed %d times:\n%s", n, c.out)
		}
		c.interrupt()
		if code := c.wait(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		expect(t, s, true, exitRefused, "",
			"bennu: cart:a: the server has pushed no presence_state within 10s: does this channel use Presence?\n",
			"presence", "URL", "cart:a")
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		for i := range 250 {
			s.Broadcast(t, "log:a", "said", body{fmt.Sprint(i)})
		}
		// records runs the command, and returns the numbers of the records and the first position.
		records := func(flags ...string) (first, last, pos string, n int) {
			t.Helper()
			c := launch(t, s, true, append([]string{"history", "URL", "log:a", "-p", `{"user":"eve"}`}, flags...)...)
			if code := c.wait(); code != exitOK || c.notes.String() != "" {
				t.Fatalf("%q: exit code %d, %s", flags, code, c.notes)
			}
			lines := strings.Split(strings.TrimSpace(c.out.String()), "\n")
			number := func(l string) string { return strings.Split(l, `"`)[3] }
			pos, _, _ = strings.Cut(lines[0], " ")
			return number(lines[0]), number(lines[len(lines)-1]), pos, len(lines)
		}
		check := func(first, last string, n int, flags ...string) (pos string) {
			t.Helper()
			f, l, pos, count := records(flags...)
			if f != first || l != last || count != n {
				t.Errorf("%q prints %s to %s (%d), want %s to %s (%d)", flags, f, l, count, first, last, n)
			}
			return pos
		}
		at := check("200", "249", 50)
		check("20", "249", 230, "--max", "230")
		check("0", "249", 250, "--max", "0")
		check("201", "249", 49, "--since", at)
		check("201", "210", 10, "--since", at, "--max", "10")
		check("190", "199", 10, "--before", at, "--max", "10")
		check("0", "199", 200, "--before", at, "--max", "0")

		expect(t, s, true, exitRefused, "", "bennu: room:a: the server does not record this topic\n",
			"history", "URL", "room:a", "-p", `{"user":"eve"}`)
		expect(t, s, true, exitUsage, "", "bennu: --since and --before exclude each other\n",
			"history", "URL", "log:a", "--since", at, "--before", at)
		for range 300 {
			s.Broadcast(t, "log:a", "said", body{"new"})
		}
		expect(t, s, true, exitRefused, "", "bennu: log:a: the records after this position are not complete (trimmed)\n",
			"history", "URL", "log:a", "-p", `{"user":"eve"}`, "--since", at)
		expect(t, s, true, exitRefused, "", "bennu: log:a: the server no longer has the records before this position\n",
			"history", "URL", "log:a", "-p", `{"user":"eve"}`, "--before", at)
	})
}

func TestStateDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		expect(t, s, true, exitOK, "written {\"rev\":1}\n", "", "state", "set", "URL", "cart:1", `{"apples":3}`)
		expect(t, s, true, exitOK, "{\"apples\":3}\n", "", "state", "URL", "cart:1")
		expect(t, s, true, exitOK, "written {\"rev\":2}\n", "", "state", "merge", "URL", "cart:1", `{"pears":1}`)
		expect(t, s, false, exitOK, `{"type":"put","topic":"cart:1","rev":2,"value":{"apples":3,"pears":1}}`+"\n", "",
			"state", "URL", "cart:1")
		expect(t, s, true, exitRefused, "",
			`bennu: write cart:1: {"reason":"conflict","rev":2,"value":{"apples":3,"pears":1}}`+"\n",
			"state", "set", "URL", "cart:1", `{}`, "--if", "1")
		expect(t, s, true, exitUsage, "", "bennu: cart:1 is a document, which has no keys\n",
			"state", "set", "URL", "cart:1", "key", `{}`)
		expect(t, s, true, exitUsage, "", "bennu: the value Plan is not JSON; a text needs quotes, such as '\"Plan\"'\n",
			"state", "set", "URL", "cart:1", "Plan")
		expect(t, s, true, exitRefused, "", "bennu: plain:1: the server has no shared object on this topic\n",
			"state", "URL", "plain:1")
	})
}

func TestStateItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		expect(t, s, true, exitOK, "written {\"rev\":1}\n", "", "state", "set", "URL", "board:1", "title", `"Plan"`)
		c := launch(t, s, true, "state", "URL", "board:1", "--follow")
		c.out.Await(t, "title \"Plan\"\n")
		expect(t, s, true, exitOK, "written {\"rev\":2}\n", "",
			"state", "set", "URL", "board:1", "due", `"now"`, "--if", "0")
		c.out.Await(t, "due \"now\"\n")
		expect(t, s, true, exitOK, "written {\"rev\":3}\n", "", "state", "delete", "URL", "board:1", "title")
		c.out.Await(t, "- title (deleted)\n")
		c.interrupt()
		if code := c.wait(); code != exitOK {
			t.Errorf("exit code %d, %s", code, c.notes)
		}
		expect(t, s, true, exitRefused, "", "bennu: write board:1: forbidden\n",
			"state", "set", "URL", "board:1", "secret", "1")
		expect(t, s, true, exitUsage, "", "bennu: board:1 is a map: name the key\n",
			"state", "set", "URL", "board:1", "1")
		expect(t, s, true, exitOK, "due \"now\"\n", "", "state", "URL", "board:1", "--prefix", "d")
		expect(t, s, true, exitOK, "", "", "state", "URL", "board:1", "--prefix", "x")

		for i, topic := range []string{"todo:1", "board:2"} {
			c := launch(t, s, true, "state", "add", "URL", topic, `{"n":1}`)
			if code := c.wait(); code != exitOK || !strings.Contains(c.out.String(), `"key":"`) {
				t.Errorf("%d: add: exit code %d, %s%s", i, code, c.out, c.notes)
			}
			c = launch(t, s, true, "state", "URL", topic)
			if c.wait(); !strings.HasSuffix(c.out.String(), " {\"n\":1}\n") {
				t.Errorf("%s prints %s%s", topic, c.out, c.notes)
			}
		}
		expect(t, s, true, exitOK, "written {\"rev\":2}\n", "",
			"state", "set", "URL", "game:1", "ann", `{"name":"Ann","score":3}`)
		expect(t, s, true, exitOK, "ann/name \"Ann\"\nann/score 3\n", "", "state", "URL", "game:1")
	})
}

func TestBench(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		args := strings.Fields(`bench URL room:{n} --topics 2 -p {"user":"u{n}"} --payload {"body":"{id}"} ` +
			`--connections 10 --rate 50 --duration 2s --event`)
		c := launch(t, s, false, append(slices.Clone(args), "say")...)
		var report struct {
			Connected, Pushes   int
			Deliveries, Replies struct {
				Count int
				P99   *float64 `json:"p99_ms"`
			}
		}
		code := c.wait()
		if err := json.Unmarshal([]byte(c.out.String()), &report); err != nil || code != exitOK || c.notes.String() != "" {
			t.Fatalf("exit code %d, %v\n%s%s", code, err, c.out, c.notes)
		}
		if report.Connected != 10 || report.Pushes != 100 || report.Replies.Count != 100 ||
			report.Deliveries.Count != 500 || report.Deliveries.P99 == nil {
			t.Errorf("%+v", report)
		}
		c = launch(t, s, true, append(slices.Clone(args), "deny")...)
		if code := c.wait(); code != exitRefused || !strings.Contains(c.out.String(), "100 × reply: be kind\n") {
			t.Errorf("exit code %d\n%s%s", code, c.out, c.notes)
		}
		if !strings.Contains(c.notes.String(), "bennu: 10 connected, 0 lost, ") {
			t.Errorf("no progress:\n%s", c.notes)
		}
		expect(t, s, true, exitUsage, "", "bennu: --topics 2: the topic must contain {n}, such as room:{n}\n",
			"bench", "URL", "room", "--topics", "2")
		expect(t, s, true, exitUsage, "", "bennu: --rate and --duration must be positive\n",
			"bench", "URL", "room", "--rate", "0")
		c = launch(t, s, true, append(slices.Clone(args), "say", "--duration", "1h")...)
		c.notes.Await(t, "deliveries")
		c.interrupt()
		if code := c.wait(); code != exitInterrupted || !strings.Contains(c.out.String(), "10 of 10 connections joined") {
			t.Errorf("exit code %d\n%s%s", code, c.out, c.notes)
		}
	})
}

func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		for _, c := range []struct{ args, notes string }{
			{
				"jion URL room:a",
				"bennu: unknown command \"jion\" for \"bennu\"\n\nDid you mean this?\n\tjoin\n\nusage: bennu [flags]\n",
			},
			{"join URL", "bennu: accepts 2 arg(s), received 1\nusage: bennu join URL TOPIC [flags]\n"},
			{"join URL t --colour", "bennu: unknown flag: --colour\nusage: bennu join URL TOPIC [flags]\n"},
			{"join URL t --params ann", "bennu: --params ann: want a JSON object, such as '{\"user\": \"ann\"}'\n"},
			{"join URL t --header x", "bennu: --header \"x\": want 'Name: value'\n"},
			{"join URL t --vsn 4", "bennu: --vsn \"4\": want 1.0.0, 2.0.0 or 3.0.0\n"},
			{"join URL t --transport carrier", "bennu: --transport \"carrier\": want websocket, longpoll or auto\n"},
			{"join URL t --timeout 0s", "bennu: --timeout must be positive\n"},
			{"join URL t --since x", "bennu: --since x: not a position, such as q7hx2c9k-129-0m0a\n"},
		} {
			expect(t, s, true, exitUsage, "", c.notes, strings.Fields(c.args)...)
		}
	})
}

func TestCannotConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		expect(t, s, true, exitConnection, "",
			"bennu: cannot connect to "+s.URL+"/nowhere: the server answered 404 Not Found: "+
				"there is no socket at this path (404 page not found); bennu doctor finds out more\n",
			"join", s.URL+"/nowhere", "t")
		expect(t, s, true, exitConnection, "", "bennu: cannot connect to "+s.URL+": the server answered 403 Forbidden: "+
			"it refuses the token, the connect params, the origin or the host; bennu doctor finds out more\n",
			"join", "URL", "t", "-H", "Origin: https://evil.example")
	})
}

func TestSocketURL(t *testing.T) {
	for typed, want := range map[string]string{
		"localhost:4000/socket":                    "ws://localhost:4000/socket",
		"https://example.com/socket/":              "https://example.com/socket",
		"wss://example.com/socket/websocket?a=b":   "wss://example.com/socket?a=b",
		"http://example.com/socket/longpoll?vsn=1": "http://example.com/socket?vsn=1",
		"ws://example.com/websocket/socket":        "ws://example.com/websocket/socket",
		"ws://example.com/my-websocket":            "ws://example.com/my-websocket",
		"ws://[::1]:4000/live":                     "ws://[::1]:4000/live",
		"example.com/socket?back=http://a/":        "ws://example.com/socket?back=http://a/",
	} {
		if got := socketURL(typed); got != want {
			t.Errorf("%s: %s, want %s", typed, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain, \u00fcber, \U0001F600": "plain, \u00fcber, \U0001F600",
		"\x1b[31mred\a\r\n\t":          `\u001b[31mred\u0007\u000d\u000a\u0009`,
		"a\u202eb\u009bc\u2028":        `a\u202eb\u009bc\u2028`,
		"\U000E0001":                   `\udb40\udc01`,
		"\xff\uFFFD":                   `\xff\ufffd`,
	} {
		if got := printable(s); got != want {
			t.Errorf("%q is printed as %q, want %q", s, got, want)
		}
	}
}

func TestParsePush(t *testing.T) {
	for _, c := range []struct{ in, event, payload, err string }{
		{`say {"a": 1}`, "say", `{"a": 1}`, ""},
		{`say   {"a": 1}`, "say", `{"a": 1}`, ""},
		{`say`, "say", `{}`, ""},
		{`{"event":"say","payload":{"a":1}}`, "say", `{"a":1}`, ""},
		{`{"event":"say"}`, "say", `{}`, ""},
		{`{"payload":{}}`, "", "", `want an event and a payload, such as: new_msg {"body":"hello"}`},
		{`say hello`, "", "", `the payload hello is not a JSON object, such as {"body":"hello"}`},
		{`say null`, "", "", `the payload null is not a JSON object, such as {"body":"hello"}`},
	} {
		event, payload, err := parsePush(c.in)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: error %v, want %s", c.in, err, c.err)
			}
			continue
		}
		if got := string(payloadJSON(payload)); err != nil || event != c.event || got != c.payload {
			t.Errorf("%s: %s %s, %v", c.in, event, got, err)
		}
	}
	if got := payloadText(serializer.Binary(make([]byte, 100))); !strings.HasPrefix(got, "100 bytes: 0000") {
		t.Error(got)
	}
}
