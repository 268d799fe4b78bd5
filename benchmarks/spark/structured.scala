// Word count with Structured Streaming. Says for each batch: BATCH <id> <rows> <milliseconds from its trigger to its commit>.
//
//   structured kafka BROKERS TOPIC ROWS_PER_BATCH running|batch
//   structured files FOLDER FILES_PER_BATCH running|batch
//
// `running` keeps running counts, as a streaming aggregation does; `batch` counts every batch by itself, as DStreams do.
import java.nio.file.Files

import org.apache.spark.sql.{DataFrame, SparkSession}
import org.apache.spark.sql.functions.{col, explode, split}
import org.apache.spark.sql.streaming.{StreamingQueryListener, Trigger}
import org.apache.spark.sql.streaming.StreamingQueryListener._

object Words {
  def count(lines: DataFrame): DataFrame =
    lines.select(explode(split(col("value"), " ")).as("word")).groupBy("word").count()

  def main(args: Array[String]): Unit = {
    val spark = SparkSession.builder().appName("words").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.streams.addListener(new StreamingQueryListener {
      override def onQueryStarted(event: QueryStartedEvent): Unit = {}
      override def onQueryTerminated(event: QueryTerminatedEvent): Unit = {}
      override def onQueryProgress(event: QueryProgressEvent): Unit = {
        val batch = event.progress
        println(s"BATCH ${batch.batchId} ${batch.numInputRows} ${batch.durationMs.get("triggerExecution")}")
        System.out.flush()
      }
    })
    val lines = args(0) match {
      case "kafka" =>
        spark.readStream.format("kafka").option("kafka.bootstrap.servers", args(1)).option("subscribe", args(2))
          .option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", args(3)).load()
          .select(col("value").cast("string").as("value"))
      case "files" => spark.readStream.format("text").option("maxFilesPerTrigger", args(2)).load(args(1))
    }
    val writer = args.last match {
      case "running" => count(lines).writeStream.outputMode("update").format("noop")
      case "batch" =>
        val each: (DataFrame, Long) => Unit = (batch, _) => count(batch).write.format("noop").mode("overwrite").save()
        lines.writeStream.foreachBatch(each)
    }
    val query = writer.option("checkpointLocation", Files.createTempDirectory("words").toString)
      .trigger(Trigger.AvailableNow()).start()
    query.awaitTermination()
    spark.stop()
    println("END")
  }
}
