package config

// This file decides whether the values of a configuration make sense, alone and together. Whether the files and the
// cluster that it names are there is checked by `validate` and by `run`.

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/cmd/sluice/suggest"
	"sluice/pipeline"
	"sluice/pipeline/escalate"
	"sluice/pipeline/kafka"
)

// about notes a mistake in the value of a key, unless the key has one already.
func (l *loader) about(path, format string, args ...any) {
	if !l.bad[path] {
		l.fail(l.where(path), path, format, args...)
	}
}

// between notes that values which are fine alone cannot go together. It stands at the first of the paths that was given
// by somebody, and is left out where one of them has a mistake of its own.
func (l *loader) between(paths []string, format string, args ...any) {
	at := paths[0]
	for _, p := range slices.Backward(paths) {
		if l.bad[p] {
			return
		}
		if !l.origins[p].isDefault() {
			at = p
		}
	}
	l.problems = append(l.problems, Mistake{l.where(at), at, fmt.Sprintf(format, args...)})
}

func (l *loader) warn(path, format string, args ...any) {
	l.warnings = append(l.warnings, Mistake{l.where(path), path, fmt.Sprintf(format, args...)})
}

// where is the origin of a path, or that of the section it belongs to.
func (l *loader) where(path string) Origin {
	if o, ok := l.origins[path]; ok {
		return o
	}
	for p := path; ; {
		if o, ok := l.sections[p]; ok {
			return o
		}
		i := strings.LastIndexByte(p, '.')
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return Origin{File: l.src.File}
}

func (l *loader) given(path string) bool { return !l.origins[path].isDefault() }

var (
	topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)
	ModelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

func (l *loader) check(s *Settings) {
	l.checkNeeded(s)
	l.checkKafka(s)
	l.checkTopics(s)
	l.checkInput(s)
	l.checkModels(s)
	l.checkBounds(s)
	l.checkUrgent(s)
	l.checkRoutes(s)
	l.checkEscalation(s)
	l.checkServer(&s.Server)
}

// checkNeeded names every key that has no default and was not given.
func (l *loader) checkNeeded(s *Settings) {
	missing := func(k Key, path string) {
		if l.given(path) {
			l.about(path, "must not be empty; write for example %s", k.example)
		} else {
			l.about(path, "is missing (%s); write for example %s", k.doc, k.example)
		}
	}
	empty := map[string]bool{
		"kafka.brokers": len(s.Kafka.Brokers) == 0, "kafka.group": s.Kafka.Group == "",
		"input.topics": len(s.Input.Topics) == 0,
		"output.topic": s.Output.Topic == "", "dead_letter.topic": s.DeadLetter.Topic == "",
	}
	for _, k := range allKeys {
		if empty[k.path] {
			missing(k, k.path)
		}
		for i, r := range s.Routes {
			if v, ok := map[string]string{"routes[].name": r.Name, "routes[].when": r.When,
				"routes[].topic": r.Topic}[k.path]; ok && v == "" {
				missing(k, strings.Replace(k.path, "[]", fmt.Sprintf("[%d]", i), 1))
			}
		}
		for i, m := range s.Models {
			path := strings.Replace(k.path, "[]", fmt.Sprintf("[%d]", i), 1)
			if k.path == "models[].name" && m.Name == "" || k.path == "models[].path" && m.Path == "" {
				missing(k, path)
			}
		}
	}
	if len(s.Models) == 0 {
		l.about("models", "is missing; write for example %s", lists["models"].example)
	}
}

func (l *loader) checkKafka(s *Settings) {
	k := &s.Kafka
	for _, b := range k.Brokers {
		l.checkAddress("kafka.brokers", b, "localhost:9092")
	}
	if k.InstanceID == "" {
		l.about("kafka.instance_id", "must not be empty: it lets a restarted worker take up its partitions without a "+
			"rebalance; write for example %q", "${HOSTNAME}")
	}
	for _, r := range []struct {
		path           string
		value          time.Duration
		least, most    time.Duration
		brokersSetting string
	}{
		{"kafka.session_timeout", k.SessionTimeout, 500 * time.Millisecond, 30 * time.Minute,
			"group.max.session.timeout.ms"},
		{"kafka.rebalance_timeout", k.RebalanceTimeout, 500 * time.Millisecond, 30 * time.Minute, ""},
		{"kafka.transaction_timeout", k.TransactionTimeout, time.Second, 15 * time.Minute,
			"transaction.max.timeout.ms"},
		{"kafka.commit_interval", k.CommitInterval, time.Millisecond, 5 * time.Minute, ""},
		{"kafka.fetch.max_wait", k.Fetch.MaxWait, time.Millisecond, 30 * time.Second, ""},
	} {
		if r.value >= r.least && r.value <= r.most {
			continue
		}
		why := ""
		if r.value > r.most && r.brokersSetting != "" {
			why = " (brokers allow no more: " + r.brokersSetting + ")"
		}
		l.about(r.path, "%s is out of range; between %s and %s%s", shortDuration(r.value), shortDuration(r.least),
			shortDuration(r.most), why)
	}
	if k.Fetch.MaxBytes < 1<<10 || k.Fetch.MaxBytes > 1<<30-1 {
		l.about("kafka.fetch.max_bytes", "%s is out of range; at least 1KiB and less than 1GiB", k.Fetch.MaxBytes)
	}
	if k.Guarantee == "exactly-once" {
		if k.CommitInterval*2 > k.TransactionTimeout {
			l.between([]string{"kafka.commit_interval", "kafka.transaction_timeout"}, "%s leaves no time to finish a "+
				"transaction within kafka.transaction_timeout (%s); lower commit_interval, or raise "+
				"transaction_timeout to more than twice as much",
				shortDuration(k.CommitInterval), shortDuration(k.TransactionTimeout))
		}
	}
	l.checkSecurity(k)
}

func (l *loader) checkSecurity(k *KafkaSettings) {
	tls, sasl := &k.TLS, &k.SASL
	if tls.CertFile != "" && tls.KeyFile == "" {
		l.between([]string{"kafka.tls.cert_file", "kafka.tls.key_file"}, "a client certificate needs its key; give "+
			"kafka.tls.key_file too, or remove cert_file")
	}
	if tls.KeyFile != "" && tls.CertFile == "" {
		l.between([]string{"kafka.tls.key_file", "kafka.tls.cert_file"}, "a key needs its client certificate; give "+
			"kafka.tls.cert_file too, or remove key_file")
	}
	if l.given("kafka.tls.enabled") && !tls.Enabled && tls.On() {
		l.between([]string{"kafka.tls.enabled"}, "false contradicts the other keys of kafka.tls; set it to true, or "+
			"remove them")
	}
	l.checkLogin(sasl, tls.On())
}

// checkLogin: each mechanism has its own keys; those of others have no effect and are mistakes.
func (l *loader) checkLogin(s *SASLSettings, encrypted bool) {
	password := []string{"kafka.sasl.username", "kafka.sasl.password_file", "kafka.sasl.password"}
	oidc := []string{"kafka.sasl.oidc.token_url", "kafka.sasl.oidc.client_id", "kafka.sasl.oidc.client_secret_file",
		"kafka.sasl.oidc.client_secret", "kafka.sasl.oidc.scope", "kafka.sasl.oidc.ca_file"}
	token := append([]string{"kafka.sasl.token_file"}, oidc...)
	switch s.Mechanism {
	case "":
		l.idleKeys(slices.Concat(password, token), "without kafka.sasl.mechanism; give one (PLAIN, SCRAM-SHA-256, "+
			"SCRAM-SHA-512, OAUTHBEARER), or remove this key", "kafka.sasl.mechanism")
		return
	case kafka.OAuthBearer:
		l.idleKeys(password, "with OAUTHBEARER, where the token names the user; remove it, or use another mechanism",
			"kafka.sasl.mechanism")
		l.checkToken(s, oidc)
	default:
		l.idleKeys(token, "with "+s.Mechanism+"; set mechanism: OAUTHBEARER, or remove it", "kafka.sasl.mechanism")
		if s.Username == "" {
			l.about("kafka.sasl.username", "is missing; %s needs one", s.Mechanism)
		}
		l.oneSecret("kafka.sasl.mechanism", s.Mechanism+" needs a password", "kafka.sasl.password_file", s.PasswordFile,
			"kafka.sasl.password", s.Password)
	}
	if !encrypted && (s.Mechanism == kafka.Plain || s.Mechanism == kafka.OAuthBearer) {
		l.warn("kafka.sasl.mechanism", "%s without kafka.tls sends the password or token readable for everybody on "+
			"the way", s.Mechanism)
	}
}

// idleKeys notes keys that were given and have no effect.
func (l *loader) idleKeys(paths []string, why, because string) {
	for _, path := range paths {
		if l.given(path) {
			l.between([]string{path, because}, "has no effect %s", why)
		}
	}
}

// oneSecret: exactly one of a file and a variable gives a secret.
func (l *loader) oneSecret(at, need, fileKey, file, key string, secret pipeline.Secret) {
	switch {
	case file == "" && secret.IsZero():
		l.between([]string{at, fileKey, key}, "%s; give %s, or set the environment variable %s", need, fileKey,
			EnvName(key))
	case file != "" && !secret.IsZero():
		l.between([]string{fileKey, key}, "%s is set too; keep the file, or the variable", EnvName(key))
	}
}

func (l *loader) checkToken(s *SASLSettings, oidc []string) {
	o := &s.OIDC
	if s.TokenFile != "" {
		l.idleKeys(oidc, "beside kafka.sasl.token_file; tokens come from the one or the other, remove one of them",
			"kafka.sasl.token_file")
		return
	}
	if !o.On() {
		l.idleKeys(oidc[1:], "without kafka.sasl.oidc.token_url; give the address of the token endpoint, or remove it",
			"kafka.sasl.oidc.token_url")
		l.between(append([]string{"kafka.sasl.mechanism", "kafka.sasl.token_file"}, oidc...),
			"OAUTHBEARER needs a token; give kafka.sasl.token_file, or kafka.sasl.oidc")
		return
	}
	u, err := url.Parse(o.TokenURL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		l.about("kafka.sasl.oidc.token_url", "is not an address; write for example https://login.example/oauth2/token")
	case u.User != nil:
		l.about("kafka.sasl.oidc.token_url", "holds a user or password; give them as client_id and client_secret_file")
	case u.Scheme == "http" && !IsLoopback(u.Hostname()):
		l.about("kafka.sasl.oidc.token_url", "would send the client secret readable for everybody on the way; use "+
			"https")
	}
	if o.ClientID == "" {
		l.about("kafka.sasl.oidc.client_id", "is missing; the token endpoint wants one")
	}
	l.oneSecret("kafka.sasl.oidc.token_url", "the token endpoint wants a client secret",
		"kafka.sasl.oidc.client_secret_file", o.ClientSecretFile, "kafka.sasl.oidc.client_secret", o.ClientSecret)
}

// checkServer: what can be reached from other machines wants TLS and a proof of who asks.
func (l *loader) checkServer(s *ServerSettings) {
	if s.Listen == "off" {
		l.idleKeys([]string{"server.tls.cert_file", "server.tls.key_file", "server.tls.client_ca_file",
			"server.token_file", "server.insecure", "server.pprof"}, "with server.listen: off; remove it, or give an "+
			"address", "server.listen")
		return
	}
	l.checkAddress("server.listen", s.Listen, "127.0.0.1:9464, or off")
	t := &s.TLS
	if t.CertFile != "" && t.KeyFile == "" {
		l.between([]string{"server.tls.cert_file", "server.tls.key_file"}, "a certificate needs its key; give "+
			"server.tls.key_file too, or remove cert_file")
	}
	if t.KeyFile != "" && t.CertFile == "" {
		l.between([]string{"server.tls.key_file", "server.tls.cert_file"}, "a key needs its certificate; give "+
			"server.tls.cert_file too, or remove key_file")
	}
	if t.ClientCAFile != "" && t.CertFile == "" {
		l.between([]string{"server.tls.client_ca_file", "server.tls.cert_file"}, "client certificates are asked for "+
			"over TLS only; give server.tls.cert_file and key_file, or remove it")
	}
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil || IsLoopback(host) {
		return
	}
	proof := s.TokenFile != "" || t.ClientCAFile != ""
	if !s.Insecure && (t.CertFile == "" || !proof) {
		l.between([]string{"server.listen", "server.tls.cert_file", "server.token_file"}, "%s can be reached from "+
			"other machines; give server.tls (cert_file, key_file) and server.token_file or "+
			"server.tls.client_ca_file, or listen on 127.0.0.1, or say server.insecure: true if whoever reaches the "+
			"port may read /metrics and /status", s.Listen)
	}
	if s.Pprof && !proof {
		l.between([]string{"server.pprof", "server.listen"}, "profiles show what the process does, and %s can be "+
			"reached from other machines; give server.token_file or server.tls.client_ca_file, or listen on 127.0.0.1",
			s.Listen)
	}
}

// IsLoopback says that a host can be reached from this machine only. Another name than localhost may mean any address.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (l *loader) checkAddress(path, address, example string) {
	host, port, err := net.SplitHostPort(address)
	n, numErr := strconv.Atoi(port)
	switch {
	case err != nil || host == "" && path == "kafka.brokers":
		l.about(path, "%q is not host:port; write for example %s", address, example)
	case numErr != nil || n < 0 || n > 65535 || n == 0 && path == "kafka.brokers":
		l.about(path, "%q has no port between 1 and 65535; write for example %s", address, example)
	}
}

func (l *loader) checkTopics(s *Settings) {
	type use struct{ path, topic string }
	uses := []use{{"output.topic", s.Output.Topic}, {"dead_letter.topic", s.DeadLetter.Topic}}
	for _, t := range s.Input.Topics {
		uses = append(uses, use{"input.topics", t})
	}
	for i, r := range s.Routes {
		uses = append(uses, use{fmt.Sprintf("routes[%d].topic", i), r.Topic})
	}
	if s.Escalation.On() {
		uses = append(uses, use{"escalation.topic", s.Escalation.Topic})
	}
	for _, u := range uses {
		if u.topic != "" && (!topicName.MatchString(u.topic) || u.topic == "." || u.topic == "..") {
			l.about(u.path, "%q cannot be the name of a topic: only letters, digits, dot, dash and underscore, at "+
				"most 249", u.topic)
		}
	}
	for i, t := range s.Input.Topics {
		if slices.Contains(s.Input.Topics[:i], t) {
			l.about("input.topics", "%q is there twice; keep one", t)
		}
	}
	for _, u := range uses {
		if u.path != "input.topics" && u.topic != "" && slices.Contains(s.Input.Topics, u.topic) {
			l.between([]string{u.path, "input.topics"}, "%q is also an input topic, so the worker would read what it "+
				"writes, for ever; write to another topic, or remove it from input.topics", u.topic)
		}
	}
	if t := s.Escalation.Topic; s.Escalation.On() && t != "" {
		for _, u := range uses {
			if u.path != "escalation.topic" && u.path != "input.topics" && u.topic == t {
				l.between([]string{"escalation.topic", u.path}, "%q is also %s, whose readers do not expect "+
					"requests; give the requests a topic of their own", t, u.path)
			}
		}
	}
	if s.Output.Topic != "" && s.Output.Topic == s.DeadLetter.Topic {
		l.between([]string{"dead_letter.topic", "output.topic"}, "%q is also output.topic, whose readers expect "+
			"results; give dead letters a topic of their own, or send results to another", s.Output.Topic)
	}
}

func (l *loader) checkInput(s *Settings) {
	in := &s.Input
	switch in.Format {
	case "text":
		if l.given("input.text") {
			l.between([]string{"input.text", "input.format"}, "has no meaning with input.format: text, where the "+
				"whole value is the text; remove it, or set format: json")
		}
	case "json":
		if slices.Contains(pipeline.ParsePath(in.Text), "") {
			l.about("input.text", "%q is not a path; write for example text, or review.body", in.Text)
		}
		if in.Text == s.Output.Field {
			l.between([]string{"output.field", "input.text"}, "%q is also the text field (input.text), and a record "+
				"that has the output field already is refused; give the verdicts another field, or read another text "+
				"field", s.Output.Field)
		}
	}
	if err := pipeline.CheckField(s.Output.Field); err != nil {
		l.about("output.field", "%v; write for example inference", err)
	}
	if in.MaxTextBytes < 1 {
		l.about("input.max_text_bytes", "must be at least 1")
	}
	if in.MaxDepth < 1 || in.MaxDepth > 10000 {
		l.about("input.max_depth", "%d is out of range; between 1 and 10000", in.MaxDepth)
	}
}

func (l *loader) checkModels(s *Settings) {
	for i, m := range s.Models {
		at := func(name string) string { return fmt.Sprintf("models[%d].%s", i, name) }
		if m.Name != "" && !ModelName.MatchString(m.Name) {
			l.about(at("name"), "%q cannot be the name of a model: letters, digits, dot, dash and underscore", m.Name)
		}
		if slices.Contains(pipeline.ReservedNames, m.VerdictField()) {
			l.between([]string{at("field"), at("name")}, "%q is a member that the output field has itself; give the "+
				"model another field, or another name", m.VerdictField())
		}
		if m.Field != "" {
			if err := pipeline.CheckField(m.Field); err != nil {
				l.about(at("field"), "%v", err)
			}
		}
		for j, other := range s.Models[:i] {
			switch {
			case m.Name != "" && m.Name == other.Name:
				l.about(at("name"), "%q is also the name of models[%d]; names must differ", m.Name, j)
			case m.VerdictField() != "" && m.VerdictField() == other.VerdictField():
				l.between([]string{at("field"), at("name")}, "%q is also the verdict field of models[%d]; give one "+
					"of them another field, or another name", m.VerdictField(), j)
			}
		}
		if m.Stride < 0 {
			l.about(at("stride"), "must not be negative")
		}
		if m.LongText == "truncate" {
			for _, name := range []string{"stride", "window_merge"} {
				if l.given(at(name)) {
					l.between([]string{at(name), at("long_text")}, "has no effect with long_text: truncate; set "+
						"long_text: window, or remove %s", name)
				}
			}
		}
		if m.Student == "" && l.given(at("student_threshold")) {
			l.between([]string{at("student_threshold"), at("student")}, "has no effect without a student; give "+
				"student, the directory of a smaller model, or remove it")
		}
		if m.StudentThreshold <= 0 || m.StudentThreshold > 1 {
			l.about(at("student_threshold"), "%v is out of range; above 0, at most 1", m.StudentThreshold)
		}
		if m.Student != "" && m.Student == m.Path {
			l.between([]string{at("student"), at("path")}, "is the model itself; give a smaller one, or remove it")
		}
		if m.Device == "cpu" && l.given(at("device_fallback")) {
			l.between([]string{at("device_fallback"), at("device")}, "has no effect with device: cpu; set device: "+
				"cuda or openvino, or remove device_fallback")
		}
	}
}

func (l *loader) checkBounds(s *Settings) {
	p, t := s.Limits.Partition, s.Limits.Total
	for _, u := range []struct {
		name             string
		partition, total int64
		show             func(int64) string
	}{
		{"records", int64(p.Records), int64(t.Records), func(n int64) string { return strconv.FormatInt(n, 10) }},
		{"bytes", int64(p.Bytes), int64(t.Bytes), func(n int64) string { return Bytes(n).String() }},
		{"tokens", int64(p.Tokens), int64(t.Tokens), func(n int64) string { return strconv.FormatInt(n, 10) }},
	} {
		pp, tp := "limits.partition."+u.name, "limits.total."+u.name
		if u.partition < 1 {
			l.about(pp, "must be at least 1")
		}
		if u.total < 1 {
			l.about(tp, "must be at least 1")
		}
		if u.partition > u.total {
			l.between([]string{pp, tp}, "one partition may have %s in flight, all together (%s) only %s; lower %s, "+
				"or raise %s", u.show(u.partition), tp, u.show(u.total), pp, tp)
		}
	}
	if s.Runners < 0 || s.Runners > 1024 {
		l.about("runners", "%d is out of range; between 1 and 1024, or 0 for the number of CPUs", s.Runners)
	}
	if s.BatchTokens < 0 {
		l.about("batch_tokens", "must be at least 1, or 0 to have it measured")
	}
	if s.BatchTokens > t.Tokens {
		l.between([]string{"batch_tokens", "limits.total.tokens"}, "%d is more than limits.total.tokens (%d), so no "+
			"batch would ever be full; lower batch_tokens, or raise the limit", s.BatchTokens, t.Tokens)
	}
	if s.Deadline < 0 {
		l.about("deadline", "must not be negative")
	}
	if s.Cache.MaxBytes != 0 && (s.Cache.MaxBytes < 1<<16 || s.Cache.MaxBytes > 1<<40) {
		l.about("cache.max_bytes", "%s is out of range; between 64KiB and 1TiB, or 0 for no cache", s.Cache.MaxBytes)
	}
	if s.RunTimeout < 10*time.Millisecond {
		l.about("run_timeout", "%s is too short for a batch; write for example 30s", shortDuration(s.RunTimeout))
	}
}

func (l *loader) checkUrgent(s *Settings) {
	for _, t := range s.Urgent.Topics {
		if len(s.Input.Topics) > 0 && !slices.Contains(s.Input.Topics, t) {
			l.between([]string{"urgent.topics", "input.topics"}, "%q is not among input.topics, so nothing of it is "+
				"read%s", t, suggest.DidYouMean(t, s.Input.Topics))
		}
	}
	if strings.HasPrefix(s.Urgent.Header, "=") {
		l.about("urgent.header", "%q names no header; write for example priority=high", s.Urgent.Header)
	}
	if s.Urgent.When != "" {
		if _, err := pipeline.ParseRule(s.Urgent.When); err != nil {
			l.about("urgent.when", "%v", err)
		}
	}
}

// VerdictNames are the names of the verdicts in results, for rules.
func (s *Settings) VerdictNames() []string {
	names := make([]string, len(s.Models))
	for i, m := range s.Models {
		names[i] = m.VerdictField()
	}
	return names
}

// checkRule type-checks a rule over verdicts.
func (l *loader) checkRule(s *Settings, path, source string) {
	if source == "" || len(s.Models) == 0 {
		return
	}
	if _, err := pipeline.ParseVerdictRule(source, s.VerdictNames()); err != nil {
		l.about(path, "%v", err)
	}
}

func (l *loader) checkRoutes(s *Settings) {
	for i, r := range s.Routes {
		at := func(name string) string { return fmt.Sprintf("routes[%d].%s", i, name) }
		if r.Name != "" && !ModelName.MatchString(r.Name) {
			l.about(at("name"), "%q cannot be the name of a route: letters, digits, dot, dash and underscore", r.Name)
		}
		for j, other := range s.Routes[:i] {
			if r.Name != "" && r.Name == other.Name {
				l.about(at("name"), "%q is also the name of routes[%d]; names must differ", r.Name, j)
			}
		}
		l.checkRule(s, at("when"), r.When)
		for path, topic := range map[string]string{"output.topic": s.Output.Topic,
			"dead_letter.topic": s.DeadLetter.Topic} {
			if r.Topic != "" && r.Topic == topic {
				l.between([]string{at("topic"), path}, "%q is also %s; give the copies a topic of their own", r.Topic,
					path)
			}
		}
	}
}

func (l *loader) checkEscalation(s *Settings) {
	e := &s.Escalation
	if !e.On() {
		for _, k := range allKeys {
			if strings.HasPrefix(k.path, "escalation.") && l.given(k.path) {
				l.about(k.path, "has no effect without escalation.when, the rule that says which records are asked "+
					"about; write for example escalation: {when: 'sentiment.score < 0.80'}, or remove the section")
				return
			}
		}
		return
	}
	l.checkRule(s, "escalation.when", e.When)
	need := func(path, value string) {
		if k, _ := Find(path); value == "" {
			l.about(path, "is missing (%s); write for example %s", k.doc, k.example)
		}
	}
	need("escalation.topic", e.Topic)
	need("escalation.endpoint.model", e.Endpoint.Model)
	if len(e.Endpoint.URLs) == 0 {
		need("escalation.endpoint.urls", "")
	}
	for i, raw := range e.Endpoint.URLs {
		l.checkURL("escalation.endpoint.urls", raw)
		if slices.Contains(e.Endpoint.URLs[:i], raw) {
			l.about("escalation.endpoint.urls", "%q is there twice; keep one", raw)
		}
	}
	if e.Endpoint.Proxy != "" {
		l.checkURL("escalation.endpoint.proxy", e.Endpoint.Proxy)
	}
	if names := s.VerdictNames(); e.Verdict != "" && len(names) > 0 && !slices.Contains(names, e.Verdict) {
		l.between([]string{"escalation.verdict", "models"}, "there is no verdict %q%s; known here: %s", e.Verdict,
			suggest.DidYouMean(e.Verdict, names), strings.Join(names, ", "))
	}
	if e.Verdict == "" && len(s.Models) > 1 {
		l.about("escalation.verdict", "is missing, and there are several models; write one of %s",
			strings.Join(s.VerdictNames(), ", "))
	}
	if e.Group != "" && e.Group == s.Kafka.Group {
		l.between([]string{"escalation.group", "kafka.group"}, "is also kafka.group; the requests need a group of "+
			"their own")
	}
	for _, p := range []struct {
		path  string
		value float64
	}{{"escalation.severity_floor", e.SeverityFloor}, {"escalation.confident", e.Confident}} {
		if p.value < 0 || p.value > 1 {
			l.about(p.path, "%v is out of range; between 0 and 1", p.value)
		}
	}
	if len(e.Severity) == 0 && l.given("escalation.severity_floor") {
		l.between([]string{"escalation.severity_floor", "escalation.severity"}, "has no effect without "+
			"escalation.severity, the labels from harmless to severe")
	}
	if len(e.Severity) == 1 {
		l.about("escalation.severity", "one label has no order; name the labels from harmless to severe")
	}
	if _, err := escalate.NewRedactor(e.Redact); err != nil {
		l.about("escalation.redact", "%v", err)
	}
	for _, p := range []struct {
		path  string
		value time.Duration
		min   time.Duration
	}{{"escalation.endpoint.timeout", e.Endpoint.Timeout, time.Millisecond}, {"escalation.endpoint.deadline",
		e.Endpoint.Deadline, time.Millisecond}, {"escalation.endpoint.breaker_pause", e.Endpoint.BreakerPause,
		time.Millisecond}, {"escalation.max_age", e.MaxAge, 0}} {
		if p.value < p.min {
			l.about(p.path, "%s is too short", shortDuration(p.value))
		}
	}
	if e.Endpoint.Deadline < e.Endpoint.Timeout {
		l.between([]string{"escalation.endpoint.deadline", "escalation.endpoint.timeout"}, "%s is shorter than the "+
			"timeout of one call (%s)", shortDuration(e.Endpoint.Deadline), shortDuration(e.Endpoint.Timeout))
	}
	for _, p := range []struct {
		path  string
		value int
		min   int
	}{{"escalation.endpoint.max_concurrency", e.Endpoint.MaxConcurrency, 1}, {"escalation.endpoint.max_attempts",
		e.Endpoint.MaxAttempts, 1}, {"escalation.endpoint.max_tokens", e.Endpoint.MaxTokens, 1},
		{"escalation.endpoint.breaker_failures", e.Endpoint.BreakerFailures, 1}, {"escalation.budget.calls_per_day",
			e.Budget.CallsPerDay, 0}, {"escalation.budget.tokens_per_day", e.Budget.TokensPerDay, 0}} {
		if p.value < p.min {
			l.about(p.path, "must be at least %d", p.min)
		}
	}
	if e.Endpoint.MaxResponseBytes < 1<<10 {
		l.about("escalation.endpoint.max_response_bytes", "must be at least 1KiB")
	}
	b := &e.Budget
	for path, value := range map[string]float64{"calls_per_second": b.CallsPerSecond, "money_per_day": b.MoneyPerDay,
		"price_input_per_million": b.PriceInputPerMillion, "price_output_per_million": b.PriceOutputPerMillion} {
		if value < 0 {
			l.about("escalation.budget."+path, "must not be negative")
		}
	}
	if b.MoneyPerDay > 0 && b.PriceInputPerMillion == 0 && b.PriceOutputPerMillion == 0 {
		l.between([]string{"escalation.budget.money_per_day", "escalation.budget.price_input_per_million"},
			"needs prices: give price_input_per_million and price_output_per_million")
	}
	if !e.Endpoint.APIKey.IsZero() && e.Endpoint.APIKeyFile != "" {
		l.between([]string{"escalation.endpoint.api_key_file", "escalation.endpoint.api_key"},
			"there is a key in the environment too; keep the file, or the variable")
	}
}

// checkURL notes what is not an HTTP address without credentials.
func (l *loader) checkURL(path, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		if strings.ContainsAny(raw, "@?") { // there may be a password in it
			raw = pipeline.Redacted
		}
		l.about(path, "%q is not an address; write for example http://llama:8000/v1", raw)
	case u.User != nil:
		l.about(path, "the address of %s has a user or password in it; give the key by "+
			"escalation.endpoint.api_key_file", u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		l.about(path, "the address of %s has a query or fragment; give the base address, such as http://llama:8000/v1",
			u.Host)
	}
}
