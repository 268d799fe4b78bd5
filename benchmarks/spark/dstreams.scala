// Word count with DStreams. Says for each batch: BATCH <id> <rows> <milliseconds that its jobs took>, and in the end how many words there were.
//
//   dstreams kafka BROKERS TOPIC ROWS_PER_PARTITION_AND_BATCH BATCHES
//   dstreams files FOLDER FILES_PER_BATCH ROWS_PER_BATCH BATCHES
//
// Batches are due every 100 ms, so that they queue and run back to back.
import java.io.File
import java.util.concurrent.{CountDownLatch, TimeUnit}

import scala.collection.mutable

import org.apache.kafka.common.serialization.StringDeserializer
import org.apache.spark.{SparkConf, SparkContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.streaming.{Milliseconds, StreamingContext}
import org.apache.spark.streaming.dstream.DStream
import org.apache.spark.streaming.kafka010.ConsumerStrategies.Subscribe
import org.apache.spark.streaming.kafka010.KafkaUtils
import org.apache.spark.streaming.kafka010.LocationStrategies.PreferConsistent
import org.apache.spark.streaming.scheduler.{StreamingListener, StreamingListenerBatchCompleted}

object Words {
  def main(args: Array[String]): Unit = {
    val conf = new SparkConf().setAppName("words")
    if (args(0) == "kafka") conf.set("spark.streaming.kafka.maxRatePerPartition", (args(3).toLong * 10).toString)
    val sc = new SparkContext(conf)
    sc.setLogLevel("ERROR")
    val ssc = new StreamingContext(sc, Milliseconds(100))
    val wanted = args.last.toInt
    val (lines, rows): (DStream[String], Long) = args(0) match {
      case "kafka" =>
        val params = Map[String, Object]("bootstrap.servers" -> args(1), "key.deserializer" -> classOf[StringDeserializer],
          "value.deserializer" -> classOf[StringDeserializer], "group.id" -> "words", "auto.offset.reset" -> "earliest",
          "enable.auto.commit" -> (false: java.lang.Boolean))
        (KafkaUtils.createDirectStream[String, String](ssc, PreferConsistent, Subscribe[String, String](Array(args(2)), params)).map(_.value), 0L)
      case "files" =>
        val perBatch = args(2).toInt
        val files = new File(args(1)).listFiles.map(_.toString).sorted
        val queue = mutable.Queue[RDD[String]]()
        files.grouped(perBatch).foreach(group => queue += sc.textFile(group.mkString(","), perBatch))
        (ssc.queueStream(queue, oneAtATime = true), args(3).toLong)
    }
    val counts = lines.flatMap(_.split(" ")).map((_, 1L)).reduceByKey(_ + _, 2)
    @volatile var total = 0L
    counts.foreachRDD { rdd => total += rdd.map(_._2).fold(0L)(_ + _) }
    val left = new CountDownLatch(wanted)
    ssc.addStreamingListener(new StreamingListener {
      private var id = 0
      override def onBatchCompleted(completed: StreamingListenerBatchCompleted): Unit = {
        val batch = completed.batchInfo
        val count = if (rows > 0) rows else batch.numRecords
        if (count > 0 && left.getCount > 0) {
          println(s"BATCH $id $count ${batch.processingDelay.getOrElse(0L)}")
          System.out.flush()
          id += 1
          left.countDown()
        }
      }
    })
    ssc.start()
    left.await(10, TimeUnit.MINUTES)
    println(s"TOTAL $total")
    println("END")
    System.out.flush()
    // An orderly stop would run the empty batches that are due by now.
    Runtime.getRuntime.halt(0)
  }
}
