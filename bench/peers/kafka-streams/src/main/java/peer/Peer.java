package peer;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;

/**
 * Peer of the race: Kafka Streams, ONNX Runtime and DJL's tokenizers in one process. See README.md.
 *
 * <p>Environment: RACE_BROKERS, RACE_INPUT, RACE_OUTPUT, RACE_GROUP, RACE_MODEL, RACE_CORES (stream threads),
 * RACE_GUARANTEE (at_least_once or exactly_once_v2), RACE_STATE (directory for Kafka Streams' state).
 */
public final class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private final OrtSession session;
    private final HuggingFaceTokenizer tokenizer;
    private final Map<Integer, String> labels = new HashMap<>();

    private Peer(Path model) throws OrtException, IOException {
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        options.setIntraOpNumThreads(1);
        options.setInterOpNumThreads(1);
        options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT);
        session = environment.createSession(model.resolve("model.onnx").toString(), options);
        tokenizer = HuggingFaceTokenizer.builder().optTokenizerPath(model.resolve("tokenizer.json"))
                .optTruncation(true).optMaxLength(128).optPadding(false).build();
        JsonNode names = JSON.readTree(model.resolve("config.json").toFile()).get("id2label");
        names.fieldNames().forEachRemaining(id -> labels.put(Integer.valueOf(id), names.get(id).asText()));
    }

    /** The verdict on one record. A stream thread calls it for each record by itself: one text, one run, no padding. */
    private byte[] classify(byte[] value) {
        try {
            Encoding encoding = tokenizer.encode(JSON.readTree(value).get("text").asText());
            try (OnnxTensor ids = OnnxTensor.createTensor(environment, new long[][] {encoding.getIds()});
                    OnnxTensor mask = OnnxTensor.createTensor(environment, new long[][] {encoding.getAttentionMask()});
                    OrtSession.Result result = session.run(Map.of("input_ids", ids, "attention_mask", mask))) {
                float[] logits = ((float[][]) result.get(0).getValue())[0];
                int best = 0;
                for (int i = 1; i < logits.length; i++) {
                    best = logits[i] > logits[best] ? i : best;
                }
                double sum = 0;
                for (float logit : logits) {
                    sum += Math.exp(logit - logits[best]);
                }
                return JSON.writeValueAsBytes(Map.of("label", labels.get(best), "score", 1 / sum));
            }
        } catch (OrtException | IOException e) {
            throw new IllegalStateException(e);
        }
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        Peer peer = new Peer(Path.of(env.get("RACE_MODEL")));
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("RACE_GROUP"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("RACE_BROKERS"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, env.get("RACE_STATE"));
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, env.getOrDefault("RACE_CORES", "2"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, env.getOrDefault("RACE_GUARANTEE", "at_least_once"));
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "100");
        p.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        p.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), "5");
        StreamsBuilder builder = new StreamsBuilder();
        builder.<byte[], byte[]>stream(env.get("RACE_INPUT")).mapValues(peer::classify).to(env.get("RACE_OUTPUT"));
        KafkaStreams streams = new KafkaStreams(builder.build(), p);
        CountDownLatch ended = new CountDownLatch(1);
        int[] status = {0};
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            status[0] = 1;
            ended.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        ended.await();
        System.exit(status[0]);
    }
}
