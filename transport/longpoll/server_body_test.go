package longpoll

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"bennu.example/serializer"
)

func textPart(s string) part   { return part{serializer.OpText, []byte(s)} }
func binaryPart(s string) part { return part{serializer.OpBinary, []byte(s)} }

func textParts(texts ...string) (parts []part) {
	for _, s := range texts {
		parts = append(parts, textPart(s))
	}
	return parts
}

func sameParts(a, b []part) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].op != b[i].op || !bytes.Equal(a[i].data, b[i].data) {
			return false
		}
	}
	return true
}

func TestReadParts(t *testing.T) {
	t.Parallel()
	long := `["` + strings.Repeat("x", 10_000) + `"]`
	encode := base64.StdEncoding.EncodeToString
	for _, test := range []struct {
		name  string
		batch bool
		body  string
		Want  []part
		err   error
	}{
		{"lines", true, "[1]\n[2]\n[3]", textParts("[1]", "[2]", "[3]"), nil},
		{"CRLF, and both mixed", true, "[1]\r\n[2]\n[3]\r\n[4]", textParts("[1]", "[2]", "[3]", "[4]"), nil},
		{"a CR alone separates nothing", true, "[1]\r[2]", []part{textPart("[1]\r[2]")}, nil},
		{"only one CR belongs to the line's end", true, "[1]\r\r\n[2]\r", []part{textPart("[1]\r"), textPart("[2]\r")}, nil},
		{"otherwise the body is one text", false, "[1]\n[2]\r\n", []part{textPart("[1]\n[2]\r\n")}, nil},
		{"a V1 object", false, `{"topic":1}`, []part{textPart(`{"topic":1}`)}, nil},
		{
			"base64", true, encode([]byte("\x00\x01\xff")) + "\n[1]\r\n" + encode([]byte("abcd")),
			[]part{binaryPart("\x00\x01\xff"), textPart("[1]"), binaryPart("abcd")}, nil,
		},
		{
			"an empty line is an empty frame", true, "[1]\n\n[2]",
			[]part{textPart("[1]"), binaryPart(""), textPart("[2]")}, nil,
		},
		{"text behind the last line break", true, "[1]\n", []part{textPart("[1]"), binaryPart("")}, nil},
		{"an empty body", true, "", []part{binaryPart("")}, nil},
		{"an empty body that is one text", false, "", []part{textPart("")}, nil},
		{"not base64", true, "[1]\n!!!", nil, errBodyBase64},
		{"a V1 object", true, `{"topic":1}`, nil, errBodyBase64},
		{"base64 without its padding", true, "AA", nil, errBodyBase64},
		{"base64 for URLs", true, "_-_-", nil, errBodyBase64},
		{"base64 with a CR", true, "AA\rAA", nil, errBodyBase64},
		{"base64 that ends in a CR", true, "AAAA\r", nil, errBodyBase64},
		{"space", true, " [1]", nil, errBodyBase64},
		{
			"long lines", true, long + "\n" + long + "\r\n" + encode([]byte(long)),
			append(textParts(long, long), binaryPart(long)), nil,
		},
		{"a long text", false, long + "\n" + long, []part{textPart(long + "\n" + long)}, nil},
		{"a long line ends the body", true, "[1]\n" + long, []part{textPart("[1]"), textPart(long)}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for how, r := range map[string]io.Reader{
				"at once":        strings.NewReader(test.body),
				"byte by byte":   iotest.OneByteReader(strings.NewReader(test.body)),
				"data and error": iotest.DataErrReader(strings.NewReader(test.body)),
			} {
				got, err := readParts(r, test.batch, 1<<20, 1<<20)
				if !errors.Is(err, test.err) || !sameParts(got, test.Want) {
					t.Errorf("%s: got %q, %v", how, got, err)
				}
			}
		})
	}
}

// The end of the reader's buffer may split a CRLF.
func TestReadPartsAtEndOfBuffer(t *testing.T) {
	t.Parallel()
	for n := 4080; n < 4110; n++ {
		line := "[" + strings.Repeat("x", n)
		got, err := readParts(strings.NewReader(line+"\r\n"+line+"\n"+line), true, 1<<20, 1<<20)
		if err != nil || !sameParts(got, []part{textPart(line), textPart(line), textPart(line)}) {
			t.Fatalf("lines of %d bytes: %d parts, %v", n+1, len(got), err)
		}
	}
}

// Only the first hundred lines of a batch are parsed.
func TestReadPartsIgnoresFurtherLines(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("[1]\n", 100) + "!!!\n\n" + strings.Repeat("x", 5000)
	got, err := readParts(strings.NewReader(body), true, 1<<20, 1000)
	if err != nil || len(got) != 100 {
		t.Fatalf("%d parts, %v", len(got), err)
	}
}

func TestReadPartsLimits(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return "[" + strings.Repeat("x", n-1) }
	binary := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, test := range []struct {
		name  string
		batch bool
		body  string
		ok    bool
	}{
		{"a text of the limit", true, text(1000), true},
		{"and its CRLF", true, text(1000) + "\r\n" + text(1), true},
		{"a text over the limit", true, text(1001), false},
		{"far over the limit", true, text(9000), false},
		{"a binary frame of the limit", true, binary(1000), true},
		{"and its CRLF", true, binary(1000) + "\r\n[]", true},
		{"a binary frame over the limit", true, binary(1001), false},
		{"a whole body of the limit", false, text(1000), true},
		{"a whole body over the limit", false, text(1001), false},
		{"a body of the limit", true, strings.Repeat("[234567]\n", 1111) + "x", true},
		{"a body over the limit", true, strings.Repeat("[234567]\n", 1111) + "xx", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := readParts(strings.NewReader(test.body), test.batch, 10_000, 1000)
			if test.ok && err != nil || !test.ok && !errors.Is(err, errBodyTooLarge) {
				t.Fatal(err)
			}
		})
	}
}

func TestReadPartsReturnsReadErrors(t *testing.T) {
	t.Parallel()
	lost := errors.New("connection lost")
	for _, batch := range []bool{false, true} {
		for _, body := range []string{"", "[1", "[1]\n", strings.Repeat("[1]\n", 200)} {
			_, err := readParts(io.MultiReader(strings.NewReader(body), iotest.ErrReader(lost)), batch, 1<<20, 1<<20)
			if !errors.Is(err, lost) {
				t.Errorf("%q, batch %v: %v", body, batch, err)
			}
		}
	}
}

// endless is a Reader of n equal bytes.
type endless struct {
	b byte
	n int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.n)
	e.n -= n
	for i := range n {
		p[i] = e.b
	}
	return n, nil
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The memory for a body is proportional to its messages, and not to its line breaks or its
// announced size.
func TestReadPartsMemory(t *testing.T) {
	const maxBody, maxMessage = 8_000_000, 1 << 20
	for _, test := range []struct {
		name  string
		batch bool
		body  func() io.Reader
		most  uint64
	}{
		{"8 MB of newlines", true, func() io.Reader { return &endless{'\n', maxBody} }, 64 << 10},
		{"8 MB of newlines as one text", false, func() io.Reader { return &endless{'\n', maxBody} }, 6 * maxMessage},
		{"8 MB behind a hundred lines", true, func() io.Reader {
			return io.MultiReader(strings.NewReader(strings.Repeat("[1]\n", 100)), &endless{'x', maxBody - 500})
		}, 64 << 10},
		{"8 MB without a newline", true, func() io.Reader { return &endless{'x', maxBody} }, 8 * maxMessage},
		{"a short line", true, func() io.Reader { return strings.NewReader("[1]") }, 16 << 10},
		{"1 MB in hundred lines", true, func() io.Reader {
			return strings.NewReader(strings.Repeat("["+strings.Repeat("x", 9_998)+"\n", 99) + "[]")
		}, 2 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			body := test.body()
			if got := allocated(func() { readParts(body, test.batch, maxBody, maxMessage) }); got > test.most {
				t.Errorf("%d bytes, want at most %d", got, test.most)
			}
		})
	}
}

// referenceParts is a simple version of readParts, for a body in memory.
func referenceParts(body []byte, batch bool, maxMessage int) ([]part, error) {
	if !batch {
		if len(body) > maxMessage {
			return nil, errBodyTooLarge
		}
		return []part{{serializer.OpText, body}}, nil
	}
	var parts []part
	for _, line := range strings.Split(strings.ReplaceAll(string(body), "\r\n", "\n"), "\n") {
		if len(parts) == maxParts {
			break
		}
		if strings.HasPrefix(line, "[") {
			if len(line) > maxMessage {
				return nil, errBodyTooLarge
			}
			parts = append(parts, textPart(line))
			continue
		}
		data, err := base64.StdEncoding.DecodeString(line)
		if strings.Contains(line, "\r") {
			err = errBodyBase64
		}
		if err == nil && len(data) > maxMessage {
			err = errBodyTooLarge
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, binaryPart(string(data)))
	}
	return parts, nil
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		"", "\n", "\r\n", "[1]\n[2]", "[1]\r\n[2]\r", "AAAA\nAA==", "AA\r\n", "[1]\r\r\n", "{}", "[\xff]",
		strings.Repeat("\n", 200), "[" + strings.Repeat("x", 5000) + "\nAAAA",
	} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, batch bool) {
		const maxMessage = 300
		got, err := readParts(bytes.NewReader(body), batch, 1<<20, maxMessage)
		want, wantErr := referenceParts(body, batch, maxMessage)
		if (err == nil) != (wantErr == nil) || !sameParts(got, want) {
			t.Fatalf("got %q, %v; want %q, %v", got, err, want, wantErr)
		}
		size := 0
		for _, p := range got {
			size += len(p.data)
		}
		if size > len(body) || len(got) > maxParts {
			t.Fatalf("%d parts of %d bytes from %d", len(got), size, len(body))
		}
	})
}

type answer struct {
	Status   int      `json:"status"`
	Token    string   `json:"token"`
	Messages []string `json:"messages"`
}

// A binary frame is sent as base64. Phoenix sends its bytes.
func TestAnswerEncodesFrames(t *testing.T) {
	t.Parallel()
	text := func(s string) *serializer.Frame { return &serializer.Frame{Op: serializer.OpText, Data: []byte(s)} }
	for _, test := range []struct {
		name  string
		frame *serializer.Frame
		raw   string
	}{
		{"text", text(`["1",null,"a"]`), `"[\"1\",null,\"a\"]"`},
		{"no escapes for HTML", text(`["<&>"]`), `"[\"<&>\"]"`},
		{"escapes", text("[\"\\n\"]\n\t\r\x01\x7f"), `"[\"\\n\"]\n\t\r\u0001` + "\x7f\""},
		{"beyond ASCII", text("[\"ü\u2028😀\"]"), "\"[\\\"ü\u2028😀\\\"]\""},
		{"not UTF-8", text("[\"\xff\"]"), "\"[\\\"\uFFFD\\\"]\""},
		{"binary", &serializer.Frame{Op: serializer.OpBinary, Data: []byte{0, 255, 254}}, `"AP/+"`},
		{"binary, padded", &serializer.Frame{Op: serializer.OpBinary, Data: []byte{1}}, `"AQ=="`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := string(appendAnswer(nil, statusOK, "T", []*serializer.Frame{test.frame, test.frame}))
			if want := `{"status":200,"token":"T","messages":[` + test.raw + "," + test.raw + `]}`; got != want {
				t.Fatalf("got  %s\nwant %s", got, want)
			}
		})
	}
	if got := string(appendAnswer(nil, statusEmpty, "T", nil)); got != `{"status":204,"token":"T","messages":[]}` {
		t.Error(got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`["1",null,"a\n"]`))
	f.Add([]byte("\x00\x1f\"\\\x7f\xff\xed\xa0\x80\u2028"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := []*serializer.Frame{{Op: serializer.OpText, Data: data}, {Op: serializer.OpBinary, Data: data}}
		var a answer
		if err := json.Unmarshal(appendAnswer(nil, statusOK, "T", frames), &a); err != nil || len(a.Messages) != 2 {
			t.Fatal(a, err)
		}
		want := string(bytes.ToValidUTF8(data, []byte("\uFFFD")))
		if a.Messages[0] != want || utf8.Valid(data) && want != string(data) {
			t.Fatalf("got %q, want %q", a.Messages[0], want)
		}
		if got, err := base64.StdEncoding.DecodeString(a.Messages[1]); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}
