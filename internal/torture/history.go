package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// wrongAnswer ends the attacker, and so the test fails.
func wrongAnswer(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "attacker: "+format+"\n", args...)
	os.Exit(1)
}

// maxJoins is how many topics one connection joins: fewer than the server's limit.
const maxJoins = 90

// malformed are members "$history" of a join, with the reasons of their refusals.
var malformed = [][2]string{
	{`null`, "invalid history"}, {`[]`, "invalid history"}, {`"q7hx2c9k-1-0m0a"`, "invalid history"},
	{`{"last":-1}`, "invalid history"}, {`{"last":1000001}`, "invalid history"}, {`{"last":1e300}`, "invalid history"},
	{`{"own":"no"}`, "invalid history"}, {`{"since":1}`, "invalid position"}, {`{"since":""}`, "invalid position"},
	{`{"since":"q7hx2c9k-1"}`, "invalid position"}, {`{"since":"q7hx2c9k-01-0m0a"}`, "invalid position"},
	{`{"since":"q7hx2c9k-9007199254740992-0m0a"}`, "invalid position"},
	{`{"since":"` + strings.Repeat("x", 5000) + `"}`, "invalid position"},
}

// forged returns a member "$history" with a position that the server never sent, and what its
// answer must contain. epoch is that of the server's log.
func forged(epoch string) (member, want string) {
	random := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0123456789abcdefghjkmnpqrstvwxyz"[rand.IntN(32)]
		}
		return string(b)
	}
	switch rand.IntN(4) {
	case 0:
		m := malformed[rand.IntN(len(malformed))]
		return m[0], fmt.Sprintf(`{"status":"error","response":{"reason":%q}}`, m[1])
	case 1:
		ahead := 1<<53 - 1 - rand.Int64N(1000)
		return fmt.Sprintf(`{"since":"%s-%d-%s","last":1000000}`, epoch, ahead, random(4)), `"why":"ahead"`
	}
	return fmt.Sprintf(`{"since":"%s-%d-%s"}`, random(16), rand.Int64N(1<<53), random(4)), `"why":"epoch"`
}

// position returns the position in the reply to a join.
func position(reply []byte) string {
	_, rest, _ := strings.Cut(string(reply), `"pos":"`)
	at, _, found := strings.Cut(rest, `"`)
	if !found {
		wrongAnswer("no position in %s", reply)
	}
	return at
}

func joinWith(member string, ref int, topic string) []byte {
	return fmt.Appendf(nil, `["%d","%d","%s","phx_join",{"$history":%s}]`, ref, ref, topic, member)
}

// dialAndJoin connects, for maxWait, and joins a topic with history. It returns the position in the
// reply. The caller must close the client if err is nil.
func dialAndJoin(addr string, ref int, topic string) (c *client, at string, err error) {
	if c, err = dial(addr, ""); err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err = c.SetDeadline(time.Now().Add(maxWait)); err != nil {
		return nil, "", err
	}
	if err = c.Send(joinWith("{}", ref, topic)); err != nil {
		return nil, "", err
	}
	reply, err := c.Text()
	if err != nil {
		return nil, "", err
	}
	return c, position(reply), nil
}

// forgedPositions joins with positions that name nothing, and with malformed ones. It checks each
// answer.
func forgedPositions(addr string) error {
	c, at, err := dialAndJoin(addr, 0, "rec:forged")
	if err != nil {
		return err
	}
	defer c.Close()
	epoch, _, _ := strings.Cut(at, "-")
	for i := 1; i < maxJoins; i++ {
		member, want := forged(epoch)
		if err := c.Send(joinWith(member, i, fmt.Sprint("rec:forged-", i))); err != nil {
			return err
		}
		reply, err := c.Text()
		if err != nil {
			return err
		}
		prefix := fmt.Sprintf(`["%d","%d",`, i, i)
		if !strings.HasPrefix(string(reply), prefix) || !strings.Contains(string(reply), want) {
			wrongAnswer("$history %s: the answer is %s, want %s", member, reply, want)
		}
	}
	return nil
}

// manyTopics broadcasts one record on each of many topics, which nobody uses afterwards.
func manyTopics(addr string) error {
	c, err := dial(addr, "")
	if err != nil {
		return err
	}
	defer c.Close()
	var b []byte
	for range maxJoins {
		topic := fmt.Sprint("rec:new-", rand.Uint64())
		b = appendMessage(b, string(joinWith("{}", 1, topic)))
		b = appendMessage(b, fmt.Sprintf(`["1","2","%s","shout",{"pad":"%s"}]`, topic, strings.Repeat("x", 1000)))
		b = appendMessage(b, fmt.Sprintf(`["1","3","%s","phx_leave",{}]`, topic))
	}
	b = appendMessage(b, `[null,"last","phoenix","heartbeat",{}]`)
	if err := c.SetDeadline(time.Now().Add(maxWait)); err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	for { // until the server has handled all of them
		frame, err := c.Text()
		if err != nil || strings.HasPrefix(string(frame), `[null,"last"`) {
			return err
		}
	}
}

// unreadReplays joins topics whose logs are full, again and again, and never reads.
func unreadReplays(addr string, end <-chan struct{}) int {
	return many(8, func(addr string) error {
		c, err := dial(addr, "")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetWriteDeadline(time.Now().Add(maxWait)); err != nil {
			return err
		}
		for i := range 300 {
			if err := c.Send(joinWith(`{"last":1000000}`, i, "rec:hot")); err != nil || isClosed(end) {
				break // the server may close the connection
			}
		}
		return nil
	})(addr, end)
}

// floodOfPages requests pages as fast as it can. Each answer is a page, or refused by the rate.
func floodOfPages(addr string, end <-chan struct{}) int {
	var pages atomic.Int64
	many(4, func(addr string) error {
		c, at, err := dialAndJoin(addr, 1, "rec:hot")
		if err != nil {
			return err
		}
		defer c.Close()
		const n = 200
		push := appendMessage(nil, fmt.Sprintf(`["1","2","rec:hot","$history",{"before":%q,"max":1000000}]`, at))
		go func() { _, _ = c.Write([]byte(strings.Repeat(string(push), n))) }() // the deadline ends it
		for got := 0; got < n; {
			frame, err := c.Text()
			if err != nil {
				return err
			}
			switch text := string(frame); {
			case !strings.HasPrefix(text, `["1","2","rec:hot","phx_reply"`): // a record
				continue
			case strings.Contains(text, `"response":{"items":[`):
				pages.Add(1)
			case !strings.Contains(text, `{"status":"error","response":{"reason":"rate"}}`) &&
				!strings.Contains(text, `{"status":"error","response":{"reason":"trimmed"}}`):
				wrongAnswer("the answer to a page is %s", text)
			}
			got++
		}
		return nil
	})(addr, end)
	return int(pages.Load())
}
