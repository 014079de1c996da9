package socket_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"bennu.example/socket"
)

// withoutPoller selects how the servers of this process read from their connections. On Linux, the
// poller of transport/websocket reads from TCP connections. Other systems and TLS have a goroutine
// for each connection, and so has a process with this variable.
var withoutPoller = os.Getenv("BENNU_TEST_WITHOUT_POLLER") != ""

// readPath returns a listener for the servers of tests. With withoutPoller, the descriptors of its
// connections cannot be used, as with TLS.
func readPath(l net.Listener) net.Listener {
	if withoutPoller {
		return portableListener{l}
	}
	return l
}

type portableListener struct{ net.Listener }

func (l portableListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return portableConn{c}, nil
}

// portableConn has the methods by which the server recognizes TLS.
type portableConn struct{ net.Conn }

func (c portableConn) NetConn() net.Conn { return c.Conn }

// CloseWrite does nothing: what TLS sends here does not end the TCP connection either.
func (c portableConn) CloseWrite() error { return nil }

// TestReadPath checks that withoutPoller has its effect. It does not run in parallel, so no other
// test has a connection.
func TestReadPath(t *testing.T) {
	s := serve(t, socket.Config{})
	p := s.dial("vsn=2.0.0")
	p.heartbeat()
	want := runtime.GOOS == "linux" && !withoutPoller
	for end := time.Now().Add(patience); hasPoller() != want; time.Sleep(10 * time.Millisecond) { // polls stacks
		if time.Now().After(end) {
			t.Fatalf("there is a poller: %v, want %v", !want, want)
		}
	}
	p.heartbeat()
}

// hasPoller reports whether a poller of transport/websocket runs.
func hasPoller() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "websocket.(*poller).run")
}

// serverTests are the tests of channels, pushes, heartbeats, slow clients, disconnections and
// shutdowns that use servers with real connections.
var serverTests = []string{
	"TestReadPath", "TestConnect", "TestAuthToken", "TestVersions",
	"TestSlowJoin", "TestSlowCallback", "TestPanicsStayInTheirChannel", "TestMaxChannels", "TestJoinRefs",
	"TestBadMessagesEndTheirSocketOnly", "TestLastMessagesAreHandled",
	"TestJoinRate", "TestMessageRate", "TestLengths", "TestStats", "TestLongRefs",
	"TestSlowPolicies", "TestDisconnectOverridesConfig", "TestSocketChannelIsNotSlow",
	"TestSlowClientLosesNoRecord", "TestSlowestFindsClientsThatStopReading",
	"TestDisconnect", "TestDisconnectDuringHandshake", "TestFailedHandshakeLeavesNothing",
	"TestDisconnectReachesEveryNode", "TestBroadcastReachesEveryNode", "TestDeniedClientClosed",
	"TestTokenExpiresOnTheWire", "TestSocketWaitsForLeftChannels", "TestConnections",
	"TestClientWill", "TestClientWillLostOnly", "TestClientWillOnce",
	"TestShutdown", "TestShutdownDeadline", "TestShutdownWithUnresponsiveClients",
}

// TestWithoutPoller runs serverTests in another process, whose servers have a goroutine for each
// connection. Their long polls are left out.
func TestWithoutPoller(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no poller on this system")
	}
	run := exec.CommandContext(t.Context(), os.Args[0], //nolint:gosec // this program
		"-test.run=^("+strings.Join(serverTests, "|")+")$", "-test.skip=^Test/^longpoll$",
		"-test.v", "-test.timeout=4m")
	run.Env = append(os.Environ(), "BENNU_TEST_WITHOUT_POLLER=true")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range serverTests {
		if !strings.Contains(string(out), fmt.Sprintf("--- PASS: %s (", name)) {
			t.Errorf("%s did not pass", name)
		}
	}
}
