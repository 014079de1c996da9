package socket_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// attacks is the table of attacks and faults of the design of connection identities. Each has its
// tests: the name of a function, after the path of its package if that is not this one.
var attacks = []struct {
	attack, expected string
	tests            []string
}{
	{
		"a flood of tokens", "error rate; nothing blocks other channels",
		[]string{"TestTokenFlood"},
	},
	{
		"a token of 16 MiB", "error invalid token; the grant stays",
		[]string{"TestHugeToken", "TestTokenErrors"},
	},
	{
		"Verify hangs or panics", "error unavailable or denied; the grant stays; nothing blocks other channels",
		[]string{"TestTokenErrors", "TestAuthHandshake", "TestClientRefreshWhileVerifyFails"},
	},
	{
		"a token of another user", "error identity changed; the old grant stays",
		[]string{"TestLoginAndLogout", "TestAuthenticateErrors", "TestGrants"},
	},
	{
		"the $client of another user", "no access: what the server keeps belongs to subject and client",
		[]string{"TestWillSurvivesOthers", "TestOwnRecordsOfUser", "TestKick", "../state.TestIDsOfUsers"},
	},
	{
		"Revoke during a handshake", "no connection of the subject is served after 1 s",
		[]string{"TestRevokeDuringHandshake", "TestRevokeBeforeOpen", "TestGrants"},
	},
	{
		"Revoke during a join", "the same",
		[]string{"TestRevokeDuring", "TestGrants", "../channel.TestRevokeOfWaitingJoin"},
	},
	{
		"Revoke before and after a refresh", "the same",
		[]string{"TestRevokeDuring", "TestRevokeDuringLogin", "TestGrants"},
	},
	{
		"Revoke during Shutdown", "the same; the shutdown ends as usual",
		[]string{"TestRevokeDuringShutdown"},
	},
	{
		"Revoke over long poll", "the same",
		[]string{"TestRevokeDuringLongPoll"},
	},
	{
		"a client pushes $kick or $revoke", "no effect",
		[]string{"TestKickIsNotForClients", "TestReservedEventsReachNoClient", "TestControlMessagesAreNotForged"},
	},
	{
		"a handler sends the event names of its client", "error of Broadcast; no effect",
		[]string{"TestReservedEventsAreNotRelayed", "TestDisconnectIsNotRelayed",
			"../channel.TestReservedEventsAreNotBroadcast", "../channel.TestPushOfControlEventFails"},
	},
	{
		"a million values of $client", "no memory after the end",
		[]string{"TestManyClientIDs"},
	},
	{
		"wills on topics that are not joined", "error unmatched topic",
		[]string{"TestWillErrors"},
	},
	{
		"100,000 wills", "error too many",
		[]string{"TestWillBounds"},
	},
	{
		"all tokens expire in one second", "spread by the notice, and 1,000 per 100 ms",
		[]string{"TestNoticesAreSpread", "TestManyExpiries", "TestExpiryBudget"},
	},
	{
		"the clock of the server or a client is set", "no end that is early or late",
		[]string{"TestClockSteps", "TestSteppedClock", "TestServerClockSamples"},
	},
	{
		"a node is killed, the store of wills pauses, or two nodes have one will",
		"runs once or more, with one $id; never after the newer join",
		[]string{"TestWillOfDeadNode", "TestWillOutage", "TestJoinWaitsForWill", "TestWillOnRecordedTopic"},
	},
	{
		"a flood of advice, or after_ms of 1e12", "the client waits at most 5 min",
		[]string{"TestClientAdvice", "TestClientAdviceFlood"},
	},
	{
		"a flood of events about the token", "one token is fetched per second",
		[]string{"TestClientRefreshFlood"},
	},
	{
		"Retry-After in 2099", "the client waits at most 5 min and a quarter",
		[]string{"TestClientRetryAfter", "TestClientAdviceFlood"},
	},
	{
		"a connection is killed during a move", "the old or the new one serves; each push is answered once",
		[]string{"TestClientLostDuringMove", "TestMovesWithFaults"},
	},
}

// TestAttacks checks that each attack has its tests.
func TestAttacks(t *testing.T) {
	t.Parallel()
	sources := map[string]string{} // the tests of a package, by path
	for _, a := range attacks {
		t.Run(a.attack, func(t *testing.T) {
			if a.expected == "" || len(a.tests) == 0 {
				t.Error("the attack has no tests")
			}
			for _, test := range a.tests {
				dir, name := ".", test
				if i := strings.LastIndex(test, "."); i >= 0 {
					dir, name = test[:i], test[i+1:]
				}
				if sources[dir] == "" {
					sources[dir] = testSources(t, dir)
				}
				if !strings.Contains(sources[dir], "\nfunc "+name+"(t *testing.T)") {
					t.Errorf("there is no test %s in %s", name, dir)
				}
			}
		})
	}
}

// testSources returns the source of the tests in a directory.
func testSources(t *testing.T, dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
