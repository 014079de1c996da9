package socket

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"bennu.example/transport/longpoll"
)

// Bounds of a query. Phoenix accepts 1,000,000 bytes; Config.MaxQuery bounds them here.
const (
	maxPairs = 1000
	maxDepth = 32 // of a[b][c]…
)

var errQueryUTF8 = errors.New("socket: query is not UTF-8")

// Plug answers a query that is too long with 414 as well.
var (
	errQuerySize = fmt.Errorf("socket: query too long: see socket.Config.MaxQuery: %w",
		longpoll.StatusError(http.StatusRequestURITooLong))
	errQueryPairs = fmt.Errorf("socket: query of too many pairs: %w", longpoll.StatusError(http.StatusBadRequest))
)

// checkQuery checks the size of a query before anything parses it.
func (h *Handler) checkQuery(r *http.Request) (err error) {
	switch query := r.URL.RawQuery; {
	case len(query) > h.cfg.MaxQuery:
		err = errQuerySize
	case strings.Count(query, "&") >= maxPairs:
		err = errQueryPairs
	default:
		return nil
	}
	h.refused(r, refusedQuery, err)
	return err
}

// requestParams returns the parameters of a request: those of the query, and the variables of the
// pattern that matched, which take precedence.
func requestParams(r *http.Request) (map[string]any, error) {
	params, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	for rest := r.Pattern; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return params, nil
		}
		name, next, ok := strings.Cut(after, "}")
		if !ok {
			return params, nil
		}
		rest = next
		if name = strings.TrimSuffix(name, "..."); name != "" && name != "$" {
			params[name] = r.PathValue(name)
		}
	}
}

// parseQuery parses a query as Plug does: a[b]=1 nests, a[]=1 is a list, and the last of equal keys
// wins. A percent sign that escapes nothing stands for itself. net/url does not support nesting and
// refuses such escapes.
func parseQuery(query string) (map[string]any, error) {
	params := make(map[string]any)
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		key, value = unescape(key), unescape(value)
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return nil, errQueryUTF8
		}
		setParam(params, key, value)
	}
	return params, nil
}

// setParam stores a value under a key like a[b][]. It replaces a contradicting earlier value.
func setParam(params map[string]any, key, value string) {
	name, rest, nested := strings.Cut(key, "[")
	if !nested || name == "" || !strings.HasSuffix(rest, "]") {
		params[key] = value
		return
	}
	path := strings.Split(rest[:len(rest)-1], "][")
	if len(path) > maxDepth {
		params[key] = value
		return
	}
	for i, next := range path {
		if next == "" { // a list ends the path: connect parameters need no lists of maps
			list, _ := params[name].([]any)
			params[name] = append(list, value)
			return
		}
		inner, ok := params[name].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			params[name] = inner
		}
		if params, name = inner, next; i == len(path)-1 {
			params[name] = value
		}
	}
}

// unescape decodes + and %XX.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s):
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(v))
				i += 2
				continue
			}
			b = append(b, '%')
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}
